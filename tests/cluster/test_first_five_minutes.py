"""docs/first-five-minutes.md, followed word by word on a real API server with three nodes.

Every ``can`` on the page is asked with a packet, too.  Two things are done for the reader: what his
editor writes, and ``kubectl exec``, which asks a kubelet: the program runs in the container here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from calico_k8s.lab.plan import LabPlan, ListenPort, PodId, place_of
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import TCP, Probe
from calico_k8s.model.resources import Action
from tests.cluster.binaries import kube_program
from tests.cluster.controllers import wait_for
from tests.cluster.installation import NAMESPACE, NODES, Installation, bare_cluster
from tests.cluster.upkeep import Upkeep, ending_namespaces
from tests.docs.test_commands import Shown, shown_on

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-five-minutes.md"
LISTEN = tuple(ListenPort(TCP, port) for port in (80, 4001, 9100))
EDITOR = """
import sys
from pathlib import Path
from tests.cluster.installation import fill_in
fill_in(Path(sys.argv[1]), {values!r})
"""
SAYS_NO = re.compile(r"^kubectl calico_k8s (can|lint) ")
QUESTIONS = re.compile(r"kubectl .*(calico_k8s|describe|exec|lable)")
"""What can be asked again: an Event, say, is not there at once."""
EXEC = re.compile(r"kubectl -n (\S+) exec deploy/(\S+) -c (\S+) -- (.*)")
GHOST = "ghost"


class Reader(NamedTuple):
    """Whoever follows the page."""

    site: Installation
    upkeep: Upkeep
    prober: Prober
    folder: Path

    def do(self, shown: Shown) -> str:
        """What a command prints; what else runs in the cluster has done its part then.

        Raises: AssertionError when it fails.
        """
        code, out = self._run(shown.command)
        is_no = SAYS_NO.match(shown.command) or shown.output.startswith("Error from server")
        assert code == 0 or (code == 1 and is_no), f"{shown.command}\n{out}"
        self.upkeep.settle()
        return out

    def _run(self, command: str) -> tuple[int, str]:
        if asked := EXEC.fullmatch(command):
            namespace, workload, container, words = asked.groups()
            assert namespace == NAMESPACE
            return self.upkeep.run_in(workload, container, shlex.split(words))
        programs = (Path(sys.executable).parent, kube_program("kubectl").parent)
        environment = {
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.site.kube.kubeconfig()),
            "EDITOR": f"{sys.executable} {self.folder / 'editor.py'}",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        with self.site.kube.host.inside():
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=self.folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        (self.folder / "stderr").write_text(done.stderr)
        return done.returncode, done.stdout or done.stderr

    @property
    def stderr(self) -> str:
        """What the last command told beside its output."""
        return (self.folder / "stderr").read_text()

    def ask(self, command: str) -> None:
        """Ask the question of a ``can`` with packets until they say the same.

        Raises: AssertionError when they do not in time.
        """
        printed = self._run(command.replace("kubectl calico_k8s can", "printf '%s\\n'", 1))[1]
        words = printed.split()
        given = dict(zip(words[::2], words[1::2], strict=True))
        src, dst = PodId(given["--from"]), PodId(given["--to"])
        address = self.site.network.pods[dst].pod.addresses[0]
        probe = Probe(place_of(src), address, int(given["--port"]), TCP)
        allowed = self._run(command)[1].startswith("allowed")
        wanted = Action.ALLOW if allowed else Action.DENY
        wait_for(
            lambda: self.prober.probe([probe])[0].verdict is wanted,
            lambda: f"{command}: {wanted}\n{self.upkeep.log('calico-k8s-controller')}",
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    for name in ("manifests", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    with ExitStack() as stack:
        site = stack.enter_context(bare_cluster(tmp_path_factory.mktemp("site")))
        (folder / "editor.py").write_text(EDITOR.format(values=dict(site.settings)))
        plan = LabPlan(NODES, listen=LISTEN)
        prober = stack.enter_context(Prober(plan, site.network.places()))
        stack.enter_context(ending_namespaces(site))
        yield Reader(site, Upkeep(site, prober), prober, folder)


def matches(shown: str, printed: str) -> bool:
    """Whether it is what the page shows, where ``…`` alone on a line is any lines, else any text.

    How wide a table's columns are does not count.
    """
    pattern = "\n".join(
        r"(?:.*\n)*?.*" if line == "…" else re.escape(line).replace("…", ".*")
        for line in _narrow(shown)
    )
    return re.fullmatch(pattern, "\n".join(_narrow(printed))) is not None


def is_shown(reader: Reader, shown: Shown) -> bool:
    """Whether a command prints what the page shows, now."""
    return matches(shown.output, reader.do(shown))


def _narrow(text: str) -> list[str]:
    return [re.sub(r"(?<=\S) {2,}", " ", line.rstrip()) for line in text.strip().splitlines()]


def test_the_page_is_true_word_by_word(reader: Reader) -> None:
    shown = list(shown_on(PAGE))
    assert len(shown) > 20
    for each in shown:
        if each.command.startswith("kubectl -n calico-k8s delete daemonset"):
            tell_what_cannot_be_enforced(reader)
            assert traces(reader)
        printed = reader.do(each)
        if each.output and not matches(each.output, printed):
            assert QUESTIONS.match(each.command), f"{each.command}\n{printed}"
            wait_for(partial(is_shown, reader, each), partial(reader.do, each))
        if each.command.startswith("kubectl calico_k8s can "):
            reader.ask(each.command)
        if each.command == "kubectl calico_k8s lint":
            assert "policy changes who reaches 0 of 3 pods" in reader.stderr
            assert not printed.startswith("Pod/")
        if each.command.startswith("kubectl calico_k8s matrix"):
            reader.site.objects.pod("shop", GHOST, ["10.244.1.99"])
    assert not traces(reader)
    left = reader.site.kube.kubectl(
        "get", "namespaces,clusterroles,clusterrolebindings", "-o", "name"
    )
    assert "calico-k8s" not in left
    everybody_reaches_everything(reader)


def tell_what_cannot_be_enforced(reader: Reader) -> None:
    """A pod that no interface leads to is named where users look."""
    kubectl = reader.site.kube.kubectl
    wait_for(
        lambda: "NotEnforced" in kubectl("-n", "shop", "describe", "pod", GHOST),
        lambda: reader.upkeep.log("calico-k8s-controller"),
    )
    said = "node node-1 cannot enforce this pod's policy (no-interface)"
    assert said in kubectl("-n", "shop", "describe", "pod", GHOST)
    code, out = reader.upkeep.run_in(
        "calico-k8s-controller", "controller", ["calico-k8s", "status"]
    )
    assert (code, f"node-1: shop/{GHOST}: no-interface: no interface" in out) == (1, True)


def traces(reader: Reader) -> list[str]:
    """What of ours is in the nodes' kernels and on their disks."""
    found = []
    for machine in reader.site.machines.values():
        with machine.host.inside():
            for command in (["iptables-nft-save"], ["iptables-legacy-save"], ["ipset", "save"]):
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found += [f"{machine.name}: {line}" for line in said.splitlines() if "cali" in line]
    return found


def everybody_reaches_everything(reader: Reader) -> None:
    pods = [site.pod for site in reader.site.network.pods.values()]
    probes = [
        Probe(place_of(src.id), dst.addresses[0], port.port, TCP)
        for src in pods
        for dst in pods
        for port in LISTEN
        if src is not dst
    ]
    answers = reader.prober.probe(probes)
    assert {answer.verdict for answer in answers} == {Action.ALLOW}
