"""Each packet is counted once, told or not: against a kernel's buckets, drawn at random."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.denial_counts import WINDOW_S, DenialCounts, share_out
from calico_k8s.model.addresses import Address
from calico_k8s.netlink.nflog import Sighting
from calico_k8s.render.text import FLOW_BURST, RULE_BURST

CHAINS = ("cali-di-one", "cali-de-two")
FLOW_RATE, RULE_RATE = 10, 500


def sighting(chain: str, port: int) -> Sighting:
    return Sighting(chain, 4, Address("10.0.0.1"), Address("10.0.0.2"), 6, port)


class Bucket:
    """A rate with a burst, as the kernel's limit and hashlimit have them."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at_s = float(burst), 0.0

    def takes(self, now_s: float) -> bool:
        """Whether one more is within the rate."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SimulatedKernel:
    """Chains that tell within their rates, and count everything."""

    def __init__(self) -> None:
        self.dropped = dict.fromkeys(CHAINS, 7)
        """Something was before."""
        self._rules = {chain: Bucket(RULE_RATE, RULE_BURST) for chain in CHAINS}
        self._flows: dict[Sighting, Bucket] = {}

    def drop(self, packet: Sighting, now_s: float) -> bool:
        """Whether the packet is told."""
        self.dropped[packet.prefix] += 1
        flow = self._flows.setdefault(packet, Bucket(FLOW_RATE, FLOW_BURST))
        return flow.takes(now_s) and self._rules[packet.prefix].takes(now_s)


bursts = st.lists(
    st.tuples(
        st.sampled_from(CHAINS),
        st.integers(1, 3),  # its flow; 3 stands for many
        st.integers(1, 1200),  # how many
        st.floats(0, 3),  # how long after the one before
    ),
    max_size=8,
)


@given(sent=bursts, reads_between=st.booleans())
def test_each_packet_is_counted_once_whatever_was_told(
    sent: list[tuple[str, int, int, float]], *, reads_between: bool
) -> None:
    kernel = SimulatedKernel()
    counts = DenialCounts(kernel.dropped)
    found, now_s = Counter[Sighting](), 0.0
    for chain, port, packets, after_s in sent:
        now_s += after_s
        flows = [sighting(chain, port if port < 3 else 100 + n) for n in range(packets)]
        told = Counter(each for each in flows if kernel.drop(each, now_s))
        for each, times in told.items():
            counts.note(each, times, now_s)
        found += told
        if reads_between:
            found += counts.settle(kernel.dropped, now_s)
    while counts.needs_reading:
        now_s += WINDOW_S
        found += counts.settle(kernel.dropped, now_s)
    by_chain = Counter[str]()
    for each, times in found.items():
        by_chain[each.prefix] += times
    assert by_chain == Counter({c: n - 7 for c, n in kernel.dropped.items() if n > 7})


def test_few_packets_need_no_look_at_the_counters() -> None:
    counts = DenialCounts()
    for port in range(FLOW_BURST):
        counts.note(sighting(CHAINS[0], port), FLOW_BURST // 2 - 1, 0.0)
    assert not counts.needs_reading


def test_a_chain_that_was_made_anew_counts_on() -> None:
    counts = DenialCounts({CHAINS[0]: 1000})
    flow = sighting(CHAINS[0], 1)
    counts.note(flow, 20, 0.0)
    assert counts.settle({CHAINS[0]: 1100}, 1.0) == {flow: 80}
    counts.note(flow, 20, 3.0)
    assert counts.settle({CHAINS[0]: 50}, 4.0) == {flow: 30}


@given(
    st.integers(0, 10_000),
    st.dictionaries(st.integers(1, 9), st.integers(1, 99), min_size=1),
)
def test_what_is_shared_out_is_all_and_nobody_gets_less_than_nothing(
    packets: int, told: dict[int, int]
) -> None:
    flows = Counter({sighting(CHAINS[0], port): times for port, times in told.items()})
    shares = share_out(packets, flows)
    assert shares.total() == packets
    assert all(share >= 0 for share in shares.values())
