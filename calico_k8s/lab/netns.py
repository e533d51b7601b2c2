"""Network namespaces with names: make, enter, remove, and sweep what a killed run left.

In: the name of a run and of a place in it.  Out: a :class:`Namespace` that a thread can enter and
that ``ip netns`` shows.  The machine's own namespace is left and come back to, never changed.

A name is ``clab-PID.START.BOOT.N-PLACE``: the process that made it, when it started (so that a
reused number is another process), the boot, and a count of its runs.  A run whose process is gone
can so be told from one that lives, and :func:`sweep` removes it.
"""

import ctypes
import errno
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NewType

import msgspec

from calico_k8s.errors import KernelError, UnavailableError

RunId = NewType("RunId", str)
"""Names one run of one process on one boot of the machine."""

NETNS_DIRECTORY = Path("/run/netns")  # ip-netns(8)
PREFIX = "clab-"
NAME_MAX = 200
"""Below NAME_MAX of the file system (255); a longer place is cut and gets a hash."""

_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 1 << 20, 2  # linux/mount.h
_NAME = re.compile(r"clab-(?P<run>(?P<pid>\d+)\.(?P<start>\d+)\.(?P<boot>[0-9a-f]+)\.\d+)-.+")


class Namespace(msgspec.Struct, frozen=True):
    """A network namespace, open in this process until it is removed."""

    name: str
    """What ``ip netns exec`` takes."""
    descriptor: int

    @property
    def path(self) -> Path:
        """What ``nsenter --net=`` takes."""
        return NETNS_DIRECTORY / self.name


class Rooms:
    """The namespaces of one run, held open until they are dropped or all are closed."""

    def __init__(self, run: RunId) -> None:
        self.run = run
        self._held: dict[str, Namespace] = {}

    def make(self, places: Sequence[str]) -> list[Namespace]:
        """Namespaces for places of the run, in their order; see :func:`create`."""
        made = create([namespace_name(self.run, place) for place in places])
        self._held |= {namespace.name: namespace for namespace in made}
        return made

    def drop(self, namespace: Namespace) -> None:
        """Removes one and kills what still runs inside, this process excepted."""
        kill_inside([namespace.name])
        remove([self._held.pop(namespace.name)])

    def close(self) -> None:
        """Removes all, also those whose making was interrupted.  Twice is fine."""
        sweep(self.run)
        remove(self._held.values())
        self._held.clear()


class Traveller:
    """Where a thread is that moves between namespaces all the time; for that thread alone."""

    def __init__(self) -> None:
        self._here: Namespace | None = None
        self._home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)

    def enter(self, namespace: Namespace) -> None:
        """Moves the thread, unless it is there."""
        if self._here is not namespace:
            _call("setns", namespace.descriptor, _CLONE_NEWNET)
            self._here = namespace

    def leave(self) -> None:
        """Moves the thread to where it came from: it keeps no namespace alive there."""
        _call("setns", self._home, _CLONE_NEWNET)
        self._here = None

    def close(self) -> None:
        """Releases the descriptor; twice is fine."""
        if self._home >= 0:
            os.close(self._home)
            self._home = -1


def run_id(number: int) -> RunId:
    """The name of this process's run of that number."""
    start = _start_time(os.getpid())
    assert start is not None, "this process runs"
    return RunId(f"{os.getpid()}.{start}.{_boot()}.{number}")


def namespace_name(run: RunId, place: str) -> str:
    """The name of a place's namespace; a slash becomes ``_``, and no two places share a name."""
    text = re.sub(r"[^A-Za-z0-9.-]", "_", place)
    if text.replace("_", "/", 1) != place or len(text) > NAME_MAX:
        text = f"{text[:NAME_MAX]}-{sha256(place.encode()).hexdigest()[:8]}"
    return f"{PREFIX}{run}-{text}"


def create(names: Sequence[str]) -> list[Namespace]:
    """New namespaces, in the order of their names, with nothing but a loopback that is down.

    Cost: some 0.6 ms each.

    Raises:
        UnavailableError: not root, or the kernel has no network namespaces.
        KernelError: a name is taken, or the kernel refused.
    """
    _prepare_directory()
    made: list[Namespace] = []
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for name in names:
            _call("unshare", _CLONE_NEWNET)
            made.append(_name_own(name))
    except KernelError:
        remove(made)
        raise
    finally:
        _call("setns", before, _CLONE_NEWNET)
        os.close(before)
    return made


def remove(namespaces: Iterable[Namespace]) -> None:
    """Takes names and descriptors away; the kernel frees a namespace when nothing uses it."""
    for namespace in namespaces:
        remove_name(namespace.name)
        with suppress(OSError):
            os.close(namespace.descriptor)


def remove_name(name: str) -> None:
    """Takes a name away; one that is gone is fine."""
    path = NETNS_DIRECTORY / name
    with suppress(KernelError):  # EINVAL: its process was killed between the file and the mount
        _call("umount2", os.fsencode(path), _MNT_DETACH)
    path.unlink(missing_ok=True)


@contextmanager
def entered(namespace: Namespace) -> Iterator[None]:
    """The calling thread is inside; sockets, threads and programs it starts there stay there.

    Cost: some 10 us.
    """
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", namespace.descriptor, _CLONE_NEWNET)
        yield
    finally:
        _call("setns", before, _CLONE_NEWNET)
        os.close(before)


def enter_for_good(name: str) -> None:
    """Moves the calling thread into the namespace of that name, to become a program there.

    Raises:
        UnavailableError: there is none, or not root.
    """
    try:
        descriptor = os.open(NETNS_DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"namespace {name}: {error.strerror}") from None
    _call("setns", descriptor, _CLONE_NEWNET)


def write_sysctls(values: dict[str, str]) -> None:
    """Writes settings of the calling thread's namespace, ``net/ipv4/ip_forward``, in order.

    Raises:
        UnavailableError: this kernel does not have one of them.
    """
    for name, value in values.items():
        try:
            descriptor = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            message = f"the kernel has no setting {name}: the lab needs it"
            raise UnavailableError(message) from None
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)


def names_of_run(run: RunId) -> list[str]:
    """The namespaces that exist of a run, sorted."""
    return [name for name in _names() if name.startswith(f"{PREFIX}{run}-")]


def dead_runs() -> list[RunId]:
    """Runs that have namespaces and whose process is gone, sorted."""
    found = {match["run"]: match for match in map(_NAME.fullmatch, _names()) if match}
    return sorted(RunId(run) for run in found if not is_alive(RunId(run)))


def is_alive(run: RunId) -> bool:
    """Whether the process that made a run still runs."""
    match = _NAME.fullmatch(f"{PREFIX}{run}-x")
    if match is None or match["boot"] != _boot():
        return False
    return _start_time(int(match["pid"])) == int(match["start"])


def sweep(run: RunId) -> None:
    """Removes every namespace of a run and kills what still runs inside, this process excepted."""
    names = names_of_run(run)
    kill_inside(names)
    for name in names:
        remove_name(name)


def kill_inside(names: Iterable[str]) -> None:
    """Kills (SIGKILL) every process whose network namespace has one of these names."""
    inodes: set[tuple[int, int]] = set()
    for name in names:
        with suppress(FileNotFoundError):
            status = (NETNS_DIRECTORY / name).stat()
            inodes.add((status.st_dev, status.st_ino))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it ended meanwhile, or is a kernel thread
            status = (entry / "ns/net").stat()
            if (status.st_dev, status.st_ino) in inodes:
                os.kill(int(entry.name), signal.SIGKILL)


def _names() -> list[str]:
    return sorted(path.name for path in NETNS_DIRECTORY.glob(f"{PREFIX}*"))


def _name_own(name: str) -> Namespace:
    """Gives the calling thread's namespace a name that outlives the thread."""
    path = NETNS_DIRECTORY / name
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except FileExistsError:
        raise KernelError(f"namespace {name} exists") from None
    _call("mount", os.fsencode(_OWN), os.fsencode(path), b"none", _MS_BIND, None)
    return Namespace(name, os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))


def _prepare_directory() -> None:
    """Makes the directory a shared mount, as ``ip netns add`` does.

    So that a name that is removed goes from every mount namespace, and frees its namespace.
    """
    try:
        NETNS_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    except PermissionError:
        raise UnavailableError("network namespaces need root: run it with sudo") from None
    directory = os.fsencode(NETNS_DIRECTORY)
    try:
        _call("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)
    except KernelError:  # no mount point yet
        _call("mount", directory, directory, b"none", _MS_BIND | _MS_REC, None)
        _call("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None: there is none of that number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so fields are counted after its end; proc(5).
    return int(text.rpartition(")")[2].split()[19])


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]


@cache
def _libc() -> ctypes.CDLL:
    # os.unshare and os.setns are of Python 3.12.
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int | bytes | None) -> None:
    """A system call by its libc name.

    Raises:
        UnavailableError: not permitted.
        KernelError: refused for another reason.
    """
    if getattr(_libc(), name)(*arguments) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EPERM:
        raise UnavailableError("network namespaces need root: run it with sudo")
    raise KernelError(f"{name}: {os.strerror(code)}")
