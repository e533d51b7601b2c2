"""A container without an image: one program with the root, user and rights that its pod gives it.

In come a command, an environment, mounts and a security context, out goes a process in a mount
namespace of its own, in the network namespace of its node.  Its root is empty but for the
machine's programs, this checkout and what is mounted; its capabilities are those named and no
others.  It ends with this process however it ends, and leaves nothing.
"""

import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.cluster.controllers import TIMEOUT_S
from tests.etcd.servers import Host

REPOSITORY = Path(__file__).resolve().parents[2]
_SYSTEM = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64")


class Mount(NamedTuple):
    """A file or folder of this machine, and where the program sees it."""

    source: Path
    target: str
    is_read_only: bool = False


class Rights(NamedTuple):
    """Who the program is, and what the kernel lets it do."""

    user: int
    group: int
    more_groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    is_root_read_only: bool = True


class Sandbox(NamedTuple):
    """Where programs of one container run."""

    host: Host
    mounts: tuple[Mount, ...]
    rights: Rights
    environment: Mapping[str, str]
    folder: Path
    """For the root, and the log."""
    programs: tuple[Path, ...] = ()
    """Folders of programs beyond the machine's own."""

    def popen(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Starts a program; what it says goes on in ``log``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = [str(Path(sys.prefix) / "bin"), *map(str, self.programs)]
        path += ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        with log.open("ab") as stream, self.host.inside():
            return subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    self._script(command),
                ],
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env={
                    "PATH": ":".join(path),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **self.environment,
                },
            )

    def _script(self, command: Sequence[str]) -> str:
        root = self.folder / "root"
        needed = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), *self.programs}
        shown = [Mount(path, str(path), is_read_only=True) for path in sorted(needed)]
        lines = [
            "set -eu",
            f"mkdir -p {root}",
            f"mount -t tmpfs -o mode=0755 none {root}",
            f"cd {root}",
            *map(_system_folder, _SYSTEM),
            "mkdir -m 0755 proc sys dev",
            "mkdir -m 1777 tmp",
            "mount --rbind /proc proc && mount --bind proc/sys proc/sys",
            "mount -o remount,bind,ro proc/sys",
            "mount --rbind /sys sys && mount -o remount,bind,ro sys",
            "mount --rbind /dev dev",
            *(line for mount in (*shown, *self.mounts) for line in _mount_lines(mount)),
        ]
        if self.rights.is_root_read_only:
            lines.append(f"mount -o remount,ro {root}")
        lines.append(f"exec chroot {root} {shlex.join([*self._setpriv(), *command])}")
        return "\n".join(lines)

    def _setpriv(self) -> list[str]:
        rights = self.rights
        wanted = ",".join(["-all", *(f"+{name.lower()}" for name in rights.capabilities)])
        groups = ",".join(map(str, rights.more_groups))
        return [
            *("setpriv", "--pdeathsig", "KILL", "--no-new-privs"),
            *("--reuid", str(rights.user), "--regid", str(rights.group)),
            *(("--groups", groups) if groups else ("--clear-groups",)),
            *("--inh-caps", "-all", "--bounding-set", wanted),
        ]


class Container:
    """One container's program; its log and its mounts stay while it comes and goes."""

    def __init__(self, name: str, sandbox: Sandbox, command: Sequence[str]) -> None:
        self.name = name
        self.sandbox = sandbox
        self.command = tuple(command)
        self.log_path = sandbox.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it."""
        self.sandbox.folder.mkdir(parents=True, exist_ok=True)
        self.process = self.sandbox.popen(self.command, self.log_path)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    def stop(self) -> None:
        """Ends it as its pod's end would; fine if it has ended."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self) -> None:
        """Ends it as a crash would; fine if it has ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def run(self, command: Sequence[str], **more: str) -> tuple[int, str]:
        """Exit code and output of another program in the same container, as `kubectl exec` would."""
        with tempfile.TemporaryDirectory(dir=self.sandbox.folder) as folder:
            environment = {**self.sandbox.environment, **more}
            sandbox = self.sandbox._replace(folder=Path(folder), environment=environment)
            log = Path(folder) / "log"
            process = sandbox.popen(command, log)
            try:
                code = process.wait(TIMEOUT_S)
            finally:
                process.kill()
                process.wait()
            return code, log.read_text(errors="replace")


def _system_folder(name: str) -> str:
    return (
        f"if [ -L /{name} ]; then cp -P /{name} {name}; elif [ -d /{name} ]; then mkdir {name};"
        f" mount --rbind /{name} {name}; mount -o remount,bind,ro {name}; fi"
    )


def _mount_lines(mount: Mount) -> list[str]:
    target = shlex.quote(mount.target.lstrip("/"))
    source = shlex.quote(str(mount.source))
    is_folder = mount.source.is_dir()
    make = f"mkdir -p {target}" if is_folder else f"mkdir -p $(dirname {target}); : >> {target}"
    lines = [f"[ -e {target} ] || {{ {make}; }}", f"mount --bind {source} {target}"]
    return [*lines, f"mount -o remount,bind,ro {target}"] if mount.is_read_only else lines
