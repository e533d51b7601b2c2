"""What a test needs from the machine, and what happens when it is missing.

In comes a need (root, a program); out goes nothing, or the end of the test: an error where the
machine promises to have everything (`CI=true`), elsewhere a skip that names the command which
provides it. Nothing is ever installed here.
"""

import os
import shutil
from pathlib import Path

import pytest


def requires(need: str, *, found: bool, install: str) -> None:
    """Ends the running test unless `found`; `install` is the command that provides `need`.

    Raises: pytest's failure under CI=true (an error when called from a fixture), else its skip.
    """
    if found:
        return
    message = f"needs {need}: {install}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


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
