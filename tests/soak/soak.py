"""An agent under steady churn for a long time: nothing grows, and every verdict is right throughout.

A real Felix process on a node of its own, on the small cluster of ``tests/bench/workload.py``; pods
elsewhere and here change their labels, come and go, policies come and go, and now and then packets
say whether a verdict has changed as it should.  Every half minute everything that could grow is
measured, and `felix drift` compares the kernel with a calculation made anew.  Then come 10,000
changes as fast as the store takes them, and last, on both backends, the acts of ``faults.py``.

In: ``--minutes``, ``--backend``, ``--seed``, a file for the plot, ``--faults-only``.  Out: a line for
each sample and act, the plot, exit 1 where something grew, differed or came late.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from calico_k8s.datastore.store import Store
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Value
from tests.bench.bed import NODE, Bed, Felix, remote_address, write
from tests.bench.bench_felix import stores
from tests.bench.bench_scale import UDP, alone, peer
from tests.bench.workload import (
    ROLES,
    SMALL,
    UNSELECTED,
    Stored,
    local_pod,
    new_policy,
    policy,
    remote_pod,
)
from tests.soak.faults import Faults

CHANGE_S = 0.05
"""Twenty changes a second."""
SAMPLE_S = 30.0
PACKETS_EVERY = 40
"""Changes between two verdicts that packets are asked for."""
VERDICT_MS = 1000.0
"""For a machine that does other work as well; `make bench` has the figures."""
BURST = 10_000
BURST_BATCH = 50
WARM_UP = 0.25
"""This part of the samples shows the agent fill up what it keeps; growth is looked for after it."""
GROWTH = 1.05
SLACK: Mapping[str, float] = {"resident_mb": 3.0, "descriptors": 2, "ipsets": 12, "chains": 12}
"""What a sample may have beyond the others by where in the churn it was taken."""

CONNTRACK_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

Items = Mapping[Key, Value | None]


class Sample(NamedTuple):
    """What there was at a moment."""

    minute: float
    resident_mb: float
    descriptors: int
    ipsets: int
    chains: int
    conntrack: int
    verdict_ms: float
    """The slowest since the last sample."""
    drift: int


class Churn:
    """Changes of a cluster, by chance; each leaves it near where it began."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.stored = Stored(SMALL)
        self._gone: set[int] = set()
        self._extra: set[int] = set()

    def next(self) -> Items:
        """One change."""
        return self._random.choices(
            (self._relabel, self._come_or_go, self._relabel_here, self._policy), (6, 3, 1, 1)
        )[0]()

    def _role(self) -> str:
        return f"r{self._random.randrange(ROLES)}"

    def _number(self) -> int:
        return self._random.randrange(1, SMALL.remote)  # the first sends

    def _relabel(self) -> Items:
        number = self._number()
        self._gone.discard(number)
        return self.stored.change(remote_pod(SMALL, number, self._role()))

    def _come_or_go(self) -> Items:
        number = self._number()
        if number in self._gone:
            self._gone.discard(number)
            return self.stored.change(remote_pod(SMALL, number))
        self._gone.add(number)
        return self.stored.remove(remote_pod(SMALL, number))

    def _relabel_here(self) -> Items:
        pod = local_pod(SMALL, self._random.randrange(SMALL.local - UNSELECTED))
        labels = {**(pod.metadata.labels or {}), "role": self._role()}
        metadata = msgspec.structs.replace(pod.metadata, labels=labels)
        return self.stored.change(msgspec.structs.replace(pod, metadata=metadata))

    def _policy(self) -> Items:
        number = SMALL.policies + self._random.randrange(20)
        if number in self._extra:
            self._extra.discard(number)
            return self.stored.remove(policy(SMALL, number))
        self._extra.add(number)
        return self.stored.change(policy(SMALL, number))


class Soak:
    """One run."""

    def __init__(
        self, bed: Bed, store: Store, felix: Felix, url: str, backend: str, seed: int
    ) -> None:
        self._bed, self._store, self._felix = bed, store, felix
        self._url, self._backend = url, backend
        self._churn = Churn(seed)
        self._slowest_ms = 0.0

    def prepare(self) -> None:
        """The cluster stored and enforced, with a policy whose verdict packets are asked for."""
        stored = self._churn.stored
        write(self._store, stored.items())
        write(self._store, stored.change(new_policy(alone(), peer("caller"), UDP)))
        self._felix.start()
        self._felix.wait_in_sync(self._store)

    def run(self, minutes: float) -> Iterator[Sample]:
        """Samples, while changes go on."""
        start_s = time.monotonic()
        sample_at_s = start_s + SAMPLE_S
        number = 0
        with self._bed.flow.sending(self._bed.outside, remote_address(0)):
            while (now_s := time.monotonic()) < start_s + minutes * 60:
                write(self._store, self._churn.next())
                number += 1
                if number % PACKETS_EVERY == 0:
                    self._ask_packets()
                if now_s >= sample_at_s:
                    yield self.sample((now_s - start_s) / 60)
                    sample_at_s += SAMPLE_S
                time.sleep(CHANGE_S)

    def burst(self) -> float:
        """Many changes as fast as they are taken; seconds that the writing took."""
        start_s = time.monotonic()
        for _ in range(BURST // BURST_BATCH):
            merged: dict[Key, Value | None] = {}
            for _ in range(BURST_BATCH):
                merged |= self._churn.next()
            write(self._store, merged)
        return time.monotonic() - start_s

    def sample(self, minute: float) -> Sample:
        """What there is now, once nothing is on its way."""
        slowest_ms, self._slowest_ms = self._slowest_ms, 0.0
        drift = self._drift()
        with self._bed.node:
            ipsets = len(_said("ipset", "list", "-n"))
            chains = sum(
                line.startswith(":cali") for line in _said(f"iptables-{self._backend}-save")
            )
            conntrack = int(CONNTRACK_COUNT.read_text())
        return Sample(
            minute,
            self._felix.resident_mb(),
            self._felix.descriptors(),
            ipsets,
            chains,
            conntrack,
            slowest_ms,
            drift,
        )

    def _ask_packets(self) -> None:
        """The sender gets the role that the policy lets in, and loses it."""
        flow, stored = self._bed.flow, self._churn.stored
        calls = stored.change(remote_pod(SMALL, 0, "caller"))
        came_ms = flow.first_passed(write(self._store, calls), UNSELECTED)
        goes = stored.change(remote_pod(SMALL, 0, "nobody"))
        went_ms = flow.last_passed(write(self._store, goes))
        self._slowest_ms = max(self._slowest_ms, came_ms, went_ms)

    def _drift(self) -> int:
        words = (sys.executable, "-m", "calico_k8s", "felix", "drift", "--node", NODE, "-o", "json")
        options = ("--datastore", self._url, "--iptables-backend", self._backend)
        with self._bed.node:
            done = subprocess.run((*words, *options), capture_output=True, text=True, check=False)
        found = json.loads(done.stdout or "null")
        if done.returncode not in (0, 1) or found is None:
            raise SystemExit(done.stderr)
        for finding in found["findings"]:
            print(f"DRIFT {finding}", file=sys.stderr)
        return len(found["findings"])


def _said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def grown(samples: Sequence[Sample]) -> Iterator[str]:
    """What is larger in the last quarter than after the warm-up: a sentence each."""
    later = samples[int(len(samples) * WARM_UP) :]
    part = max(1, len(later) // 4)
    for name, slack in SLACK.items():
        first, last = (
            statistics.median(getattr(each, name) for each in some)
            for some in (later[:part], later[-part:])
        )
        if last > first * GROWTH + slack:
            yield f"{name} has grown from {first:g} to {last:g}"


def wrong(samples: Iterable[Sample]) -> Iterator[str]:
    """What was not as it should be at a sample."""
    for each in samples:
        if each.drift:
            yield f"minute {each.minute:.1f}: {each.drift} differences in the kernel"
        if each.verdict_ms > VERDICT_MS:
            yield f"minute {each.minute:.1f}: a verdict came after {each.verdict_ms:.0f} ms"


def plot(samples: Sequence[Sample], file: Path) -> None:
    """Everything that could grow, over time, as SVG."""
    # Imported here: only this needs it, and scripts/soak installs it.
    from matplotlib.figure import Figure as Drawing

    names = ("resident_mb", "descriptors", "ipsets", "chains", "conntrack", "verdict_ms")
    drawing = Drawing(figsize=(8, 9), layout="constrained")
    for place, name in zip(drawing.subplots(len(names), sharex=True), names, strict=True):
        place.plot([each.minute for each in samples], [getattr(each, name) for each in samples])
        place.set_ylabel(name)
        place.set_ylim(bottom=0)
    place.set_xlabel("minutes")
    drawing.savefig(file, metadata={"Date": None})
    file.write_text("".join(f"{line.rstrip()}\n" for line in file.read_text().splitlines()))


def main() -> int:
    """A run; 1 where something was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--backend", choices=("legacy", "nft"), default="nft")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--faults-only", action="store_true")
    given = parser.parse_args()
    findings = [] if given.faults_only else churned(given)
    for backend in ("legacy", "nft"):
        findings += [f"{backend}: {each}" for each in disturbed(backend)]
    for finding in findings:
        print(f"FOUND: {finding}")
    return 1 if findings else 0


def disturbed(backend: str) -> list[str]:
    """What was wrong while other programs were in the way."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bed = Bed(stack, SMALL.local, range(SMALL.local - UNSELECTED, SMALL.local))
        store, url = stack.enter_context(stores("sqlite", folder))
        felix = Felix(bed, url, backend, folder)
        stack.callback(felix.stop)
        print(f"faults, {backend}", flush=True)
        return list(Faults(bed, store, felix, backend).play())


def churned(given: argparse.Namespace) -> list[str]:
    """What was wrong in so many minutes of churn, and in the changes that come last."""
    samples: list[Sample] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bed = Bed(stack, SMALL.local, range(SMALL.local - UNSELECTED, SMALL.local))
        store, url = stack.enter_context(stores("sqlite", folder))
        felix = Felix(bed, url, given.backend, folder)
        stack.callback(felix.stop)
        soak = Soak(bed, store, felix, url, given.backend, given.seed)
        soak.prepare()
        for sample in soak.run(given.minutes):
            samples.append(sample)
            print(json.dumps(sample._asdict()), flush=True)
        took_s = soak.burst()
        after = soak.sample(given.minutes)
        print(f"{BURST} changes in {took_s:.1f} s: {json.dumps(after._asdict())}", flush=True)
    if given.plot is not None:
        plot(samples, given.plot)
    findings = [*grown(samples), *wrong([*samples, after])]
    if not findings:
        print(f"{len(samples)} samples: nothing grew, differed or came late")
    return findings


if __name__ == "__main__":
    sys.exit(main())
