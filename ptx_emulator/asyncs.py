"""Asynchronous work: what hardware units do on their own after an instruction has issued it.

Results of a right program do not depend on when its asynchronous work is done. The order policy decides:
"in_order" at once, "late" only when no warp can run, "random" at random moments.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable

from . import state as st

ORDERS = ("in_order", "late", "random")


class AsyncQueue:
    """Pending work as one FIFO per unit of one CTA."""

    def __init__(self, order: str, rng: random.Random):
        self.order = order
        self._rng = rng
        self._units: dict[Hashable, deque] = {}

    def __len__(self) -> int:
        return sum(len(unit) for unit in self._units.values())

    def submit(self, cta, unit: Hashable, fn: Callable[[], None], description: str) -> None:
        """Adds work. Work of the same CTA and unit is done in the order submitted."""
        if self.order == "in_order":
            fn()
            cta.header[st.H_PROGRESS] += 1
            return
        self._units.setdefault((cta.rank, unit), deque()).append((cta, fn, description))

    def run_one(self) -> bool:
        """Does one piece of work: the oldest unit's, or a random unit's. False if there is none."""
        if not self._units:
            return False
        units = list(self._units)
        key = self._rng.choice(units) if self.order == "random" else units[0]
        cta, fn, _ = self._units[key].popleft()
        if not self._units[key]:
            del self._units[key]
        fn()
        cta.header[st.H_PROGRESS] += 1
        return True

    def drain(self) -> None:
        while self.run_one():
            pass

    def descriptions(self) -> list[str]:
        return [description for unit in self._units.values() for _, _, description in unit]
