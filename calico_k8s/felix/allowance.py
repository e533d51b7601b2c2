"""How much processor time goes to what is done again and again beside the updates.

In: what was spent, and the time.  Out: how long to rest.  For readings of live flows, and looks at
the place of our rules.
"""

from typing import Final

SAVED_S: Final = 0.25
"""Processor seconds that quiet times save up for a burst: some twenty readings at once."""


class Allowance:
    """Processor time that flows in by ``share`` of a core, up to ``SAVED_S``."""

    def __init__(self, share: float, now_s: float) -> None:
        self._share = share
        self._left_s = SAVED_S
        self._at_s = now_s

    def spend(self, spent_s: float, now_s: float) -> float:
        """Takes what was spent; how long to rest, in seconds, until nothing is owed."""
        gained_s = self._share * (now_s - self._at_s)
        self._left_s = min(SAVED_S, self._left_s + gained_s) - spent_s
        self._at_s = now_s
        return max(0.0, -self._left_s / self._share)
