"""Network namespaces for tests of the real kernel: nameless, gone with the process that made them.

In comes nothing; out goes a :class:`Namespace` to run code and programs in.  None has an uplink,
and the machine's own namespace is left and entered again, never changed.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


class Namespace:
    """A network namespace of its own; entering it moves the calling thread there and back.

    Programs started inside inherit it.  The kernel removes it once it is closed and nothing
    inside runs any more, so an interrupted test leaves nothing behind.
    """

    def __init__(self) -> None:
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_libc().unshare(CLONE_NEWNET), "unshare")
            self._descriptor = os.open(_OWN, os.O_RDONLY)
            run("ip", "link", "set", "lo", "up")
        finally:
            _check(_libc().setns(before, CLONE_NEWNET), "setns")
            os.close(before)
        self._before: list[int] = []

    @property
    def path(self) -> str:
        """What ``ip link set ... netns`` takes."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def __enter__(self) -> Self:
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_libc().setns(self._descriptor, CLONE_NEWNET), "setns")
        except OSError:
            os.close(before)
            raise
        self._before.append(before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        before = self._before.pop()
        try:
            _check(_libc().setns(before, CLONE_NEWNET), "setns")
        finally:
            os.close(before)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def run(*command: str, stdin: str | None = None) -> str:
    """What the program printed; fails with what it said on stderr."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=stdin)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ip(words: str) -> str:
    """``ip`` with the words of one line."""
    return run("ip", *words.split())


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """A namespace that is closed at the end; the caller stays where it is."""
    namespace = Namespace()
    try:
        yield namespace
    finally:
        namespace.close()


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """The test's body runs in a fresh namespace with an xtables lock of its own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with new_namespace() as made, made:
        yield made


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
