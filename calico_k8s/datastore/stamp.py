"""When what is stored was written: a key of its own, part of the writer's very transaction.

Values carry no time, or every comparison of the whole store would differ.  A reader that follows
the store has the stamp at the moment it has the change, and can tell how long that took.  Both
times are by the writer's clock: what a reader makes of them is as true as the two clocks agree.
"""

import msgspec


class Stamp(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seconds since the epoch."""

    written: float
    """Just before the transaction was sent."""
    changed: float | None = None
    """When the oldest of the changes in it had reached the writer; None: a comparison found them."""


def encode_stamp(stamp: Stamp) -> bytes:
    """A stamp as it is stored."""
    return msgspec.json.encode(stamp)


def decode_stamp(raw: bytes | None) -> Stamp | None:
    """The stamp; None where there is none, or a newer version's."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Stamp)
    except msgspec.DecodeError:
        return None
