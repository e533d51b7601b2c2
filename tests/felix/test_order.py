"""The order of a batch: at no instant is allowed what neither the old nor the new state allows."""

from collections.abc import Iterator
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.order import ChangedSet, Do, Role, Step, Switches, steps
from calico_k8s.render.tables import IpsetName

Sets = dict[IpsetName, frozenset[int]]
Groups = dict[str, tuple[tuple[str, IpsetName], ...]]
"""A group's chain: (action, set) in order; the end denies."""

FLOWS = tuple(product((1, 2, 3), (1, 2, 3)))
PEERS = frozenset((1, 2, 3))

_ROLES = {
    ("ingress", "allow"): Role.OPENS_INGRESS,
    ("egress", "allow"): Role.OPENS_EGRESS,
    ("ingress", "deny"): Role.CLOSES,
    ("egress", "deny"): Role.CLOSES,
}


class State:
    """Local endpoints 1, 2, 3 with a group each way, the groups' chains, and the sets."""

    def __init__(self, sets: Sets, groups: Groups, ingress: dict[int, str], egress: dict[int, str]):
        self.sets = dict(sets)
        self.groups = dict(groups)
        self.ingress = dict(ingress)
        self.egress = dict(egress)

    def __repr__(self) -> str:
        sets = {name: sorted(members) for name, members in self.sets.items() if members}
        return f"State({sets}, {self.groups}, in={self.ingress}, out={self.egress})"

    def copy(self) -> "State":
        return State(self.sets, self.groups, self.ingress, self.egress)

    def allows(self, src: int, dst: int) -> bool:
        return self._passes(self.egress.get(src), dst) and self._passes(self.ingress.get(dst), src)

    def _passes(self, group: str | None, peer: int) -> bool:
        for action, name in self.groups.get(group or "", ()):
            if peer in self.sets[name]:
                return action == "allow"
        return False


def set_names(direction: str) -> list[IpsetName]:
    return [IpsetName(f"{direction}-{action}-{n}") for action in ("allow", "deny") for n in (1, 2)]


@st.composite
def states(draw: st.DrawFn) -> State:
    sets: Sets = {}
    groups: Groups = {}
    chosen: dict[str, dict[int, str]] = {}
    for direction in ("ingress", "egress"):
        for name in set_names(direction):
            sets[name] = draw(st.frozensets(st.sampled_from(sorted(PEERS))))
        names = [f"{direction}-group-{n}" for n in (1, 2)]
        for group in names:
            rules = st.lists(st.sampled_from(set_names(direction)), max_size=3)
            groups[group] = tuple((name.split("-")[1], name) for name in draw(rules))
        chosen[direction] = draw(
            st.dictionaries(st.sampled_from(sorted(PEERS)), st.sampled_from(names))
        )
    return State(sets, groups, chosen["ingress"], chosen["egress"])


def batch(old: State, new: State) -> tuple[Step, ...]:
    affected = {g for g in new.groups if old.groups[g] != new.groups[g]}
    for before, after in ((old.ingress, new.ingress), (old.egress, new.egress)):
        for endpoint in PEERS:
            if before.get(endpoint) != after.get(endpoint):
                affected |= {before.get(endpoint, ""), after.get(endpoint, "")}
    asked = {name for state in (old, new) for g in affected for _, name in state.groups.get(g, ())}
    changed = [
        ChangedSet(name, _ROLES[name.split("-")[0], name.split("-")[1]], name in asked)
        for name in old.sets
        if old.sets[name] != new.sets[name]
    ]
    maps = [("egress-map", Role.EGRESS_MAP), ("ingress-map", Role.INGRESS_MAP)]
    changed += [ChangedSet(IpsetName(name), role) for name, role in maps]
    stays = {g for e, g in (*old.ingress.items(), *old.egress.items())}
    switches = Switches(
        chains=any(old.groups[g] != new.groups[g] for g in stays),
        egress=any(new.egress.get(e, g) != g for e, g in old.egress.items()),
        ingress=any(new.ingress.get(e, g) != g for e, g in old.ingress.items()),
    )
    return steps(changed, writes_tables=old.groups != new.groups, switches=switches)


def instants(old: State, new: State) -> list[State]:
    """Every state on the way, with each set's members changed one by one."""
    now = old.copy()
    seen = [now.copy()]
    for step in batch(old, new):
        if step.do is Do.WRITE_TABLES:
            now.groups = dict(new.groups)
        for name in step.names:
            seen.extend(now.copy() for _ in change(now, new, step.do, name))
        seen.append(now.copy())
    return seen


def change(now: State, new: State, do: Do, name: str) -> Iterator[None]:
    """Do a step's part for one set, member by member."""
    if name not in ("egress-map", "ingress-map"):
        key = IpsetName(name)
        for peer in sorted(PEERS):
            if do is Do.ADD and peer in new.sets[key]:
                now.sets[key] |= {peer}
            elif do is Do.REMOVE and peer not in new.sets[key]:
                now.sets[key] -= {peer}
            yield
        return
    have, want = (getattr(state, name.removesuffix("-map")) for state in (now, new))
    for endpoint in sorted(PEERS):
        is_coming_or_going = (endpoint in have) != (endpoint in want)
        is_moving = endpoint in want and have.get(endpoint) not in (None, want[endpoint])
        if do is Do.ADD and endpoint in want:
            have[endpoint] = want[endpoint]
        elif do is Do.REMOVE and endpoint not in want:
            have.pop(endpoint, None)
        elif (do is Do.HOLD and is_moving) or (do is Do.SHUT and is_coming_or_going):
            have[endpoint] = "hold"
        yield


@given(states(), states())
def test_every_instant_of_a_batch_gives_the_old_verdict_the_new_or_a_denial(
    old: State, new: State
) -> None:
    for state in instants(old, new):
        for src, dst in FLOWS:
            if state.allows(src, dst):
                assert old.allows(src, dst) or new.allows(src, dst)


@given(states(), states())
def test_a_batch_ends_in_the_new_state(old: State, new: State) -> None:
    last = instants(old, new)[-1]
    assert (last.sets, last.ingress, last.egress) == (new.sets, new.ingress, new.egress)


@given(states(), st.data())
def test_an_ingress_peer_that_stays_allowed_is_never_denied_between(
    old: State, data: st.DataObject
) -> None:
    new = old.copy()
    for name in set_names("ingress"):
        if "allow" in name:
            new.sets[name] = data.draw(st.frozensets(st.sampled_from(sorted(PEERS))))
    for state in instants(old, new):
        for src, dst in FLOWS:
            if old.allows(src, dst) and new.allows(src, dst):
                assert state.allows(src, dst)
