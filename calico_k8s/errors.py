"""Every error this project raises on purpose, in one tree.

::

    CalicoError
    ├── InputError              what somebody wrote is wrong; has a place          exit 2
    │   └── CodecError          a stored value is not what its key promises
    ├── UnavailableError        something needed is missing or away                exit 3
    │   ├── StoreError          the datastore
    │   │   ├── StoreUnavailable    cannot be reached now; try again
    │   │   │   └── StoreUncertain      ... and a write was under way: it may be done or not
    │   │   ├── StoreForbidden      refuses this caller
    │   │   ├── StoreLeaseLost      a lease has ended, and its keys with it
    │   │   ├── StoreConflict       a compared key has changed; nothing was written
    │   │   ├── StoreCompacted      the asked-for revision is gone; read again
    │   │   └── StoreForeign        not a datastore of ours, or of another cluster
    │   ├── KubeError           the Kubernetes API did not do what was asked
    │   │   ├── KubeUnavailable     cannot be reached now, or has too much to do; try again
    │   │   ├── KubeForbidden       refuses this caller
    │   │   ├── KubeNotFound        there is no such object
    │   │   ├── KubeConflict        made or changed by somebody else meanwhile
    │   │   └── KubeExpired         the asked-for revision is gone; list again
    │   └── Deposed             another controller writes the datastore now
    └── KernelError             the kernel, or a tool that drives it, refused   exit 3
        ├── IptablesError           iptables-restore
        │   └── LockHeld            its lock could not be had in time
        └── NetlinkError            a netlink request, with its errno

A message is one sentence for people: what was wrong, where, what would be right.  Adapters turn
outside exceptions into these at the door, so that nothing inside catches anything broader.
"""


class CalicoError(Exception):
    """The root: ``str()`` is one sentence for people.  ``exit_code`` is the command's."""

    exit_code = 1


class InputError(CalicoError):
    """Something written by a person cannot be used; ``file``, ``line`` and ``column`` say where."""

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)


class CodecError(InputError):
    """A stored value does not fit its key: written by hand, by a newer version, or damaged."""


class UnavailableError(CalicoError):
    """Something the command needs is missing or cannot be reached; the message says how to get it."""

    exit_code = 3


class StoreError(UnavailableError):
    """The datastore did not do what was asked."""


class StoreUnavailable(StoreError):
    """The datastore cannot be reached now; the same call may succeed later."""


class StoreUncertain(StoreUnavailable):
    """The store was lost after a write was sent: it may be done, or may yet be; read it back."""


class StoreForbidden(StoreError):
    """The store refuses this caller: its certificate, its role, or a file's owner and mode."""


class StoreLeaseLost(StoreError):
    """The lease has ended, and its keys are gone: take another one and write them again."""


class StoreConflict(StoreError):
    """A compared key has another revision than expected; nothing was written."""


class StoreCompacted(StoreError):
    """What followed the revision asked for can no longer be had: take a new snapshot.

    It was compacted away, or the store has been set back to a backup, or is another one.
    """


class StoreForeign(StoreError):
    """The store answers but is not ours to use: another program's file, or another cluster's data."""


class KubeError(UnavailableError):
    """The Kubernetes API did not do what was asked."""


class KubeUnavailable(KubeError):
    """The API server cannot be reached now, or has too much to do; the same call may succeed later."""


class KubeForbidden(KubeError):
    """The API server refuses this caller: its credentials, or its rights (RBAC)."""


class KubeNotFound(KubeError):
    """There is no such object."""


class KubeConflict(KubeError):
    """The object is there already, or was changed by somebody else since it was read."""


class KubeExpired(KubeError):
    """What followed the revision asked for, or the rest of a list, can no longer be had."""


class Deposed(UnavailableError):
    """Another controller has become the writer of the datastore, so this one may write no more."""


class KernelError(CalicoError):
    """The kernel, or a tool that drives it, refused what was asked.

    Not exit code 1: of ``felix drift`` and ``felix clean --verify`` that is an answer.
    """

    exit_code = 3


class IptablesError(KernelError):
    """iptables-restore refused its input, or failed."""


class LockHeld(IptablesError):
    """Another program held the xtables lock for all of the time: nothing was written."""


class NetlinkError(KernelError):
    """A netlink request failed; ``errno`` is the kernel's."""

    def __init__(self, message: str, errno: int) -> None:
        self.errno = errno
        super().__init__(message)
