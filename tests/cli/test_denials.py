"""What was denied, for people and for programs: from an agent's socket and from the datastore."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Put, Store
from calico_k8s.felix.local_socket import LocalSocket
from calico_k8s.model.addresses import Address
from calico_k8s.model.denial import Deciding, Denial, Denials, denials_path
from calico_k8s.model.names import NodeName
from tests.cli.program import Ran, run

DENIED = Denial(
    "deny",
    "ingress",
    Address("10.0.0.1"),
    Address("10.0.0.2"),
    "tcp",
    first=100.0,
    last=200.0,
    why="end of annotation of pod shop/db",
    src_pod="shop/web",
    dst_pod="shop/db",
    port=5432,
    deciding=Deciding("Pod", "shop", "db", None),
    packets=3,
)
FROM_OUTSIDE = msgspec.structs.replace(
    DENIED, src=Address("192.0.2.7"), src_pod="", last=150.0, packets=1
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'state.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url)) as opened:
        yield opened


def tell(store: Store, node: str, *denials: Denial) -> None:
    raw = msgspec.json.encode(Denials(NodeName(node), denials))
    store.transact([Put(denials_path(NodeName(node)), raw)])


def denials(*more: str) -> Ran:
    return run("denials", *more)


def test_a_clusters_denials_are_those_of_its_nodes_the_newest_last(url: str, store: Store) -> None:
    tell(store, "one", DENIED)
    tell(store, "two", FROM_OUTSIDE)
    ran = denials("--datastore", url)
    assert ran.code == 0
    heading, outside, inside = ran.out.splitlines()
    assert heading.split() == ["TIME", "NODE", "WHAT", "FROM", "TO", "SERVICE", "PACKETS", "WHY"]
    words = ["two", "denied", "192.0.2.7", "shop/db", "tcp", "5432", "1"]
    assert outside.split()[1:8] == words
    assert inside.endswith("end of annotation of pod shop/db")


def test_json_has_both_ends_and_what_decided(url: str, store: Store) -> None:
    tell(store, "one", DENIED)
    (row,) = json.loads(denials("--datastore", url, "-o", "json").out)
    assert row["from"] == "shop/web"
    assert row["from_address"] == "10.0.0.1"
    assert row["deciding"] == {"kind": "Pod", "namespace": "shop", "name": "db", "rule": None}
    assert (row["node"], row["packets"], row["sampled"], row["last"]) == ("one", 3, False, 200.0)


def test_one_node_can_be_asked_for_and_another_name_is_refused(url: str, store: Store) -> None:
    tell(store, "one", DENIED)
    tell(store, "two", FROM_OUTSIDE)
    found = json.loads(denials("--datastore", url, "--node", "two", "-o", "json").out)
    assert [row["node"] for row in found] == ["two"]
    ran = denials("--datastore", url, "--node", "three")
    assert ran.code == 2
    assert ran.err == "error: node 'three' tells no denials; these do: one, two\n"


def test_where_no_node_tells_it_is_said_how_to_have_it_told(url: str, store: Store) -> None:
    assert store.read("/").entries == ()
    ran = denials("--datastore", url)
    assert ran.code == 3
    assert "start Felix with --denials on" in ran.err


def test_without_an_agent_here_it_is_said_where_one_was_looked_for(tmp_path: Path) -> None:
    ran = denials("--denials-socket", str(tmp_path / "none"))
    assert ran.code == 3
    assert str(tmp_path / "none") in ran.err


def test_followed_lines_are_new_ones_and_more_packets_of_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "denials"
    now = [Denials(NodeName("one"), (DENIED,))]
    asked = threading.Event()

    def answer() -> bytes:
        asked.set()
        return msgspec.json.encode(now[0])

    local = LocalSocket(path, answer)
    assert local.start()
    command = (sys.executable, "-m", "calico_k8s", "denials", "--follow")
    with (
        closing(local),
        subprocess.Popen(
            (*command, "--denials-socket", str(path)), stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            sentence = "denied: shop/web → shop/db, tcp 5432: end of annotation of pod shop/db"
            assert process.stdout.readline().endswith(f"one {sentence} (3 packets)\n")
            more = msgspec.structs.replace(DENIED, packets=4, last=201.0)
            now[0] = Denials(NodeName("one"), (more, FROM_OUTSIDE))
            lines = [process.stdout.readline() for _ in range(2)]
            assert lines[0].endswith(
                "192.0.2.7 → shop/db, tcp 5432: end of annotation of pod shop/db\n"
            )
            assert lines[1].endswith(f"one {sentence}\n")
            # Forgotten by the agent, meanwhile even without anything to tell, and back again.
            for gone in (Denials(NodeName("one"), (FROM_OUTSIDE,)), Denials(NodeName("two"))):
                now[0] = gone
                asked.clear()
                for _ in range(2):  # the first may have been answered with what was before
                    assert asked.wait(20)
                    asked.clear()
            anew = msgspec.structs.replace(DENIED, packets=6, last=202.0)
            now[0] = Denials(NodeName("one"), (FROM_OUTSIDE, anew))
            assert process.stdout.readline().endswith(f"one {sentence} (6 packets)\n")
        finally:
            process.kill()
