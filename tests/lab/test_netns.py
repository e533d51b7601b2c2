"""Names tell whose a namespace is, and entering one ends where it began."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.errors import KernelError, UnavailableError
from calico_k8s.lab import netns
from calico_k8s.lab.netns import Rooms, RunId, entered, namespace_name, run_id

RUN = RunId("1.2.abcdef01.0")
DNS_LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


def own() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@given(DNS_LABEL, DNS_LABEL)
def test_a_pods_namespace_can_be_read(namespace: str, name: str) -> None:
    assert namespace_name(RUN, f"{namespace}/{name}") == f"clab-{RUN}-{namespace}_{name}"


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_place_has_a_file_name_of_its_own(first: str, second: str) -> None:
    names = {namespace_name(RUN, place) for place in (first, second)}
    assert len(names) == len({first, second})
    for name in names:
        assert len(name.encode()) <= 255
        assert "/" not in name


def test_this_process_is_alive_and_others_of_its_number_are_not() -> None:
    alive = run_id(0)
    pid, start, boot, _number = alive.split(".")
    assert netns.is_alive(alive)
    assert not netns.is_alive(RunId(f"{pid}.{int(start) + 1}.{boot}.0"))
    assert not netns.is_alive(RunId(f"{pid}.{start}.00000000.0"))
    assert not netns.is_alive(RunId(f"4999999.{start}.{boot}.0"))
    assert not netns.is_alive(RunId("something else"))


@pytest.mark.kernel
def test_a_thread_comes_back_from_where_it_was() -> None:
    before = own()
    rooms = Rooms(run_id(900))
    try:
        first, second = rooms.make(["a", "b"])
        with entered(first):
            inside = own()
            with entered(second):
                assert own() == second.path.stat().st_ino
            assert own() == inside == first.path.stat().st_ino
        with pytest.raises(ZeroDivisionError), entered(first):
            raise ZeroDivisionError
        assert own() == before
    finally:
        rooms.close()
    assert not first.path.exists()
    rooms.close()


@pytest.mark.kernel
def test_other_threads_stay_where_they_are() -> None:
    before = own()
    seen: list[int] = []
    rooms = Rooms(run_id(901))
    try:
        (room,) = rooms.make(["a"])
        gate = threading.Event()

        def look() -> None:
            gate.wait(60)
            seen.append(own())

        thread = threading.Thread(target=look)
        thread.start()
        with entered(room):
            gate.set()
            thread.join()
    finally:
        rooms.close()
    assert seen == [before]


@pytest.mark.kernel
def test_a_name_that_is_taken_is_refused_and_what_was_made_before_it_is_gone() -> None:
    rooms = Rooms(run_id(902))
    try:
        rooms.make(["a"])
        with pytest.raises(KernelError, match="exists"):
            rooms.make(["b", "a"])
        assert netns.names_of_run(rooms.run) == [f"clab-{rooms.run}-a"]
    finally:
        rooms.close()


@pytest.mark.kernel
def test_what_was_interrupted_half_way_is_removed() -> None:
    rooms = Rooms(run_id(903))
    half = netns.NETNS_DIRECTORY / namespace_name(rooms.run, "half")
    rooms.make(["whole"])
    half.touch()  # its process ended before the namespace was mounted on it
    rooms.close()
    assert netns.names_of_run(rooms.run) == []
    assert not half.exists()


@pytest.mark.kernel
def test_a_setting_that_the_kernel_lacks_is_told_by_name() -> None:
    with pytest.raises(UnavailableError, match="no setting net/ipv4/nonsense"):
        netns.write_sysctls({"net/ipv4/nonsense": "1"})


@pytest.mark.kernel
def test_settings_are_the_namespaces_own() -> None:
    path = Path("/proc/sys/net/ipv4/ip_forward")
    before = path.read_text(encoding="ascii")
    rooms = Rooms(run_id(904))
    try:
        (room,) = rooms.make(["a"])
        for value in ("1", "0"):
            with entered(room):
                netns.write_sysctls({"net/ipv4/ip_forward": value})
                assert path.read_text(encoding="ascii") == f"{value}\n"
            assert path.read_text(encoding="ascii") == before
    finally:
        rooms.close()


@pytest.mark.kernel
def test_removed_namespaces_leave_no_descriptor_open() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    rooms = Rooms(run_id(905))
    rooms.make(["a", "b", "c"])
    assert count() == before + 3
    rooms.close()
    assert count() == before
