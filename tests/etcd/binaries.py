"""The etcd programs that tests run: Debian's, and a current one built from the module beside this.

In comes a version, out goes the path of a program; the current one is built once, in half a
minute, and kept.
"""

import enum
from pathlib import Path

from tests.gobuilds import GoBuild, built_programs
from tests.needs import require_program

CURRENT = GoBuild(Path(__file__).parent, "go.etcd.io/etcd/server/v3", (".",))


class EtcdVersion(enum.Enum):
    """What a cluster runs."""

    DEBIAN = "3.4"
    """The package etcd-server."""
    CURRENT = "3.6"
    """The release that go.mod names."""


def etcd_binary(version: EtcdVersion) -> Path:
    """The program; ends the test when it cannot be had."""
    match version:
        case EtcdVersion.DEBIAN:
            return require_program("etcd", package="etcd-server")
        case EtcdVersion.CURRENT:
            return built_programs(CURRENT) / "etcd"
