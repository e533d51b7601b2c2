"""structlog without rich, which it takes along if it can, for tracebacks that are never printed here.

In: nothing.  Out: structlog, and a process in which rich can be imported as ever.  It would cost
each start of a daemon 38 ms and 4 MB.
"""

import sys

_modules: dict[str, object] = sys.modules  # type: ignore[assignment]  # None: there is no such module
_had_rich = _modules.setdefault("rich", None) is not None

import structlog  # noqa: E402 - it looks for rich when it is imported

if not _had_rich:
    del _modules["rich"]

__all__ = ["structlog"]
