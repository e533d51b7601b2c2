"""What a test needs from the machine, and what happens when it is missing.

In comes a need (root, a program, a part of the kernel); out goes nothing, or the end of the test:
an error where the machine promises to have everything (`CI=true`), elsewhere a skip that names the
command which provides it. What no command provides, a kernel built without something, is a skip
everywhere. Nothing is ever installed here.
"""

import os
import shutil
from pathlib import Path

import pytest

KERNEL_LACKS = "this kernel is built without "


def is_ci() -> bool:
    """True where the machine promises to have what tests need."""
    return os.environ.get("CI") == "true"


def is_allowed_skip(reason: str) -> bool:
    """False for a skip that hides a missing need where none may be missing."""
    return not is_ci() or reason.removeprefix("Skipped: ").startswith(KERNEL_LACKS)


def requires(need: str, *, found: bool, install: str) -> None:
    """Ends the running test unless `found`; `install` is the command that provides `need`.

    Raises: pytest's failure under CI=true (an error when called from a fixture), else its skip.
    """
    if found:
        return
    message = f"needs {need}: {install}"
    if is_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def require_kernel(feature: str, *, found: bool) -> None:
    """Skips the running test unless the kernel has `feature`, which no package can provide."""
    if not found:
        pytest.skip(f"{KERNEL_LACKS}{feature}")


def require_root() -> None:
    """Ends the running test unless it runs as root."""
    requires(
        "root", found=os.geteuid() == 0, install="run it as root, for example `sudo make test`"
    )


def require_program(name: str, *, package: str) -> Path:
    """The path of program `name`, which Debian's `package` provides; ends the test without it."""
    # Debian keeps iptables and ipset in sbin, which is not on every user's PATH.
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    path = shutil.which(name, path=search)
    requires(f"the program {name}", found=path is not None, install=f"apt-get install {package}")
    return Path(path or name)
