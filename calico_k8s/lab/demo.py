"""The demo: the story's acts in a lab, told as they are measured.

In: where lines go.  Out: a :class:`Score`: how many probes turned out as the definition says, and
how many otherwise.  Every verdict that is shown was a packet.  An act's time is from the change,
handed to the controller, until the last probe that met the old verdict.
"""

import http.client
import json
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from calico_k8s.errors import KernelError
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.lab.asking import matrix_questions
from calico_k8s.lab.beats import SETTLE_S, verdict_runs
from calico_k8s.lab.cluster import left_of
from calico_k8s.lab.kernelview import kernel_text
from calico_k8s.lab.netns import RunId, entered
from calico_k8s.lab.plan import PodId
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.lab.story import ACTS, API, OBJECTS, WEB, Act, Object, patched
from calico_k8s.lab.stream import Stream
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query import views
from calico_k8s.query.matrix import Cell, Matrix, cell_key, compare, compute_matrix
from calico_k8s.query.matrix_text import Paint, matrix_lines, plain
from calico_k8s.sources.assign import cluster_ips
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import ClusterObjects, expand
from calico_k8s.translate.cluster import translate_all

SERVICES = (WEB, API)
WIDTH = 92
STREAMS_MAX = 10
INTERVAL_S = 0.008
"""Ten streams with a probe every so often: 1,250 connections a second, and times this exact."""
IN_FORCE_S = 5.0
FETCH_TIMEOUT_S = 0.5
WATCHED_S = 1.0
"""How long the walls are watched without their agent."""
_BECAME_INDENT = 13
KILLED = NodeName("node-2")
"""Whose agent dies in the last act."""

Say = Callable[[str], None]


class Score(msgspec.Struct):
    """Probes as expected, and what was otherwise, in words."""

    expected: int = 0
    surprises: list[str] = []

    def expect(self, what: str, *, holds: bool) -> None:
        """Counts one thing; ``what`` says it as it is if it does not hold."""
        if holds:
            self.expected += 1
        else:
            self.surprises.append(what)

    def count(self, computed: Matrix, probed: Matrix) -> None:
        """Counts what was probed against what the definition says."""
        wrong = compare(computed, probed)
        self.expected += len(probed.probes) - len(wrong)
        self.surprises += [f"{cell}: expected {old}" for old, cell in wrong]


class Stage(msgspec.Struct, frozen=True):
    """Where the demo is told."""

    say: Say
    paint: Paint = plain
    act_s: float = 0.0
    """An act lasts at least so long, so that somebody can read."""


def run_demo(stage: Stage) -> Score:
    """The whole story; nothing of it is left at the end.

    Raises:
        UnavailableError: not root, or something is not installed.
        KernelError: the lab could not be brought up.
    """
    score = Score()
    start_s = time.monotonic()
    with lab_up(_expanded(OBJECTS), LabOptions(services=SERVICES)) as lab:
        demo = _Demo(stage, lab, score)
        demo.introduce(time.monotonic() - start_s)
        for act in ACTS:
            demo.play(act)
        demo.lose_agent()
        run, pids = RunId(lab.cluster.directory.name), lab.agents.pids
    left = [*left_of(run), *(f"process {pid}" for pid in pids if Path(f"/proc/{pid}").exists())]
    score.expect(f"left behind: {', '.join(left)}", holds=not left)
    _sum_up(stage, score, time.monotonic() - start_s)
    return score


class _Demo:
    """The acts on their stage."""

    def __init__(self, stage: Stage, lab: Lab, score: Score) -> None:
        self._stage = stage
        self._lab = lab
        self._score = score
        self._objects: Sequence[Object] = OBJECTS
        self._number = 0
        self._shown: Matrix | None = None

    def introduce(self, up_s: float) -> None:
        """Who is on the stage."""
        say = self._stage.say
        nodes = ", ".join(self._lab.cluster.nodes)
        say(f"Nodes {nodes}, joined by plain routes; on each the real Felix; every pod a network")
        say("namespace with an HTTP server on ports 80 and 4001. Each ✓ and ✗ is a connection.")
        say(f"Up in {up_s:.1f} s.")

    def play(self, act: Act) -> None:
        """One act."""
        began_s = self._open(act.title, act.says)
        before = self._lab.snapshot
        if act.patches:
            self._stage.say("")
            self._print_yaml(act.text)
            took_s = self._change(patched(self._objects, act.patches))
            self._stage.say("")
            self._stage.say(f"In force after {took_s * 1000:.0f} ms.")
            self._print_became(before)
        self._show()
        self._fetch()
        self._wait(began_s)

    def lose_agent(self) -> None:
        """The last act: an agent is killed, and returns."""
        began_s = self._open(
            f"The agent of {KILLED} is killed",
            "What it enforced stands; it returns, finds everything in place, and writes nothing.",
        )
        lab, score = self._lab, self._score
        site = lab.cluster.nodes[KILLED]
        held = kernel_text(site, Backend.NFT)
        cells = compute_matrix(lab.snapshot, SERVICES)
        streams = self._streams(_spread(cells.probes))
        lab.kill_agent(KILLED)
        time.sleep(WATCHED_S)
        alone = lab.matrix(SERVICES)
        start_s = time.monotonic()
        lab.start_agent(KILLED)
        took_s = time.monotonic() - start_s
        time.sleep(SETTLE_S)
        beats = 0
        for stream, _ in streams:
            lab.prober.stop(stream)
            runs = verdict_runs(stream.beats())
            beats += sum(run.beats for run in runs)
            score.expect(f"{stream.probe}: {runs}", holds=len(runs) == 1)
        score.count(cells, alone)
        is_same = kernel_text(site, Backend.NFT) == held
        score.expect("the returned agent changed the kernel", holds=is_same)
        say = self._stage.say
        say("")
        say(f"{beats} connections while it was away and coming back: every verdict as before.")
        say(
            f"Back and in sync after {took_s:.1f} s; rules and sets {'the same' if is_same else 'DIFFER'}."
        )
        self._show()
        self._wait(began_s)

    def _open(self, title: str, says: str) -> float:
        self._number += 1
        heading = f"── {self._number}. {title} ".ljust(WIDTH, "─")
        self._stage.say("")
        self._stage.say(self._stage.paint(heading, "heading"))
        self._stage.say(says)
        return time.monotonic()

    def _print_yaml(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self._stage.say(f"    {line}")

    def _change(self, objects: Sequence[Object]) -> float:
        """Applies the objects; how long until no pair met its old verdict any more."""
        lab = self._lab
        cluster = _expanded(objects, lab.objects)
        wanted = Snapshot.from_items(translate_all(cluster.objects()).items)
        computed = compute_matrix(lab.snapshot, SERVICES), compute_matrix(wanted, SERVICES)
        changed = [change.after for change in compare(*computed) if change.after is not None]
        streams = self._streams(_spread(changed))
        time.sleep(SETTLE_S)
        start_s = time.monotonic()
        lab.apply(cluster)
        held_s = start_s
        for stream, cell in streams:
            verdict = Action.ALLOW if cell.verdict == "allow" else Action.DENY
            try:
                stream.wait_for(verdict, since_s=start_s, within_s=IN_FORCE_S)
            except KernelError as error:
                self._score.expect(str(error), holds=False)
        time.sleep(SETTLE_S)
        for stream, _ in streams:
            lab.prober.stop(stream)
            runs = verdict_runs(stream.beats(start_s))
            held_s = max(held_s, runs[-1].first_s)
        self._objects = objects
        return held_s - start_s

    def _streams(self, cells: Iterable[Cell]) -> list[tuple[Stream, Cell]]:
        """A stream for each cell."""
        prober = self._lab.prober
        questions = matrix_questions(self._lab.snapshot, SERVICES, prober.fresh_port)
        asked = {cell_key(cell): probe for cell, probe in questions}
        return [
            (prober.stream(asked[cell_key(cell)], interval_s=INTERVAL_S), cell) for cell in cells
        ]

    def _print_became(self, before: Snapshot) -> None:
        """What rules there are now that were not, which tags they ask for, and who has both."""
        now = self._lab.snapshot
        olds = list(views.rules(before))
        said = ""
        policies = {policy.id.path: policy for policy in now.policies.values()}
        for row in views.rules(now):
            if row in olds or row["direction"] != "ingress":
                continue
            policy = policies.get(row["of"])
            carriers = [
                e.id.pod
                for e in now.endpoints.values()
                if row["of"] in e.profiles or (policy and now.selects(policy.selector, e))
            ]
            if row["of"] != said:
                kind, said = "profile" if policy is None else "policy", row["of"]
                self._say_became(kind, f"{said}, of {', '.join(sorted(carriers))}")
            self._say_became("rule", row["rule"])
            for tag in views.tags(now):
                if f" {tag['tag']} " in f" {row['rule']} ":
                    carriers = tag["endpoints"]
                    self._say_became("tag", f"{tag['tag']}, of {', '.join(carriers)}")

    def _say_became(self, kind: str, text: str) -> None:
        lines = textwrap.wrap(text, WIDTH - _BECAME_INDENT, break_on_hyphens=False)
        for number, line in enumerate(lines):
            self._stage.say(f"    {'' if number else kind:<9}{line}")

    def _show(self) -> None:
        """Asks every pair, and prints the matrix beside the one before."""
        lab, stage = self._lab, self._stage
        probed = lab.matrix(SERVICES)
        self._score.count(compute_matrix(lab.snapshot, SERVICES), probed)
        stage.say("")
        for line in side_by_side(self._shown, probed, stage.paint):
            stage.say(f"  {line}")
        self._shown = probed

    def _fetch(self) -> None:
        """A browser's view: a page from the service's cluster IP."""
        lab = self._lab
        (service,) = (s for s in lab.objects.services if s.metadata.name == "frontend")
        (address,) = cluster_ips(service)
        with entered(lab.cluster.pods[PodId("client/browser")].namespace):
            page = _fetch(address)
        allowed = [
            cell.verdict == "allow"
            for cell in compute_matrix(lab.snapshot, (WEB,)).probes
            if (cell.src, cell.dst) == ("client/browser", "webapp/frontend")
        ]
        self._score.expect(
            f"http://frontend.webapp: {page}", holds=(page is not None) == allowed[0]
        )
        answer = f"200, served by {page}" if page is not None else "no answer"
        self._stage.say("")
        self._stage.say(f"  client/browser$ curl http://{address}  # service frontend: {answer}")

    def _wait(self, began_s: float) -> None:
        time.sleep(max(0.0, began_s + self._stage.act_s - time.monotonic()))


def side_by_side(before: Matrix | None, after: Matrix, paint: Paint) -> Iterator[str]:
    """Two matrices in columns, the cells that differ marked in the right one."""
    right = list(matrix_lines(after, before, paint))
    if before is None:
        yield from right
        return
    left = list(matrix_lines(before, None, paint))
    widths = [len(line) for line in matrix_lines(before, None, plain)]
    width = max(widths)
    yield f"{'before':<{width}}    after"
    for old, old_width, new in zip(left, widths, right, strict=True):
        yield f"{old}{' ' * (width - old_width)}    {new}"


def _spread(cells: Sequence[Cell]) -> Sequence[Cell]:
    """Some of the cells, from all over the matrix."""
    step = max(1, -(-len(cells) // STREAMS_MAX))
    return cells[::step]


def _expanded(objects: Iterable[Object], before: ClusterObjects | None = None) -> ClusterObjects:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    return expand(read_text(json.dumps(listed), "demo").manifests, None, before)


def _fetch(address: str) -> str | None:
    """What the page at port 80 says; None if nothing answers."""
    connection = http.client.HTTPConnection(address, WEB.port, timeout=FETCH_TIMEOUT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    except OSError:
        return None
    finally:
        connection.close()


def _sum_up(stage: Stage, score: Score, took_s: float) -> None:
    stage.say("")
    stage.say(stage.paint("─" * WIDTH, "heading"))
    wrong = len(score.surprises)
    for surprise in score.surprises:
        stage.say(stage.paint(f"unexpected: {surprise}", "deny"))
    counts = f"{score.expected} probes as expected, {wrong} not"
    rest = "" if wrong else "; nothing left behind"
    stage.say(f"{stage.paint(counts, 'deny' if wrong else 'allow')}{rest}; {took_s:.0f} s.")
