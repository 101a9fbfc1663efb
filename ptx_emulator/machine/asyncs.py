"""Asynchronous work: what hardware units do on their own after an instruction has issued it.

Results of a right program do not depend on when its asynchronous work is done. The order policy decides:

    in_order     at once
    late         only when no warp can run, the oldest first
    random       at random moments
    adversarial  each unit of work is eager (its first steps at once), late (only when no warp can run, a random one
                 of the late) or random; its steps (sources read, destinations written, completion signalled) are done
                 at different times

tcgen05.ld and operations on other CTAs' memory are such work too, with bounds of their own (deferred_loads.py,
remote.py). Under "random" and "adversarial" warps take turns at random and some are held back (cluster.py). Both are
replayed by their seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from ..engine import state as st

ORDERS = ("in_order", "late", "random", "adversarial")
SEEDED = ("random", "adversarial")
_EAGER, _LATE, _RANDOM = range(3)
_CHANGE_OF_MIND = 0.2  # how often a unit that has work gets another temper, per submission

Step = Callable[[], None]


class AsyncQueue:
    """Pending work as one FIFO per unit of one CTA."""

    def __init__(self, order: str, rng: random.Random):
        self.order = order
        self._rng = rng
        self._units: dict[Hashable, deque] = {}
        self._tempers: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return sum(len(unit) for unit in self._units.values())

    def submit(self, cta, unit: Hashable, work: Step | Sequence[Step], description: str) -> None:
        """Adds work: one step, or steps in order, which other work may separate.

        Work of the same CTA and unit is done in the order submitted.
        """
        steps = [work] if callable(work) else list(work)
        if self.order == "in_order":
            for step in steps:
                step()
            cta.header[st.H_PROGRESS] += 1
            return
        key = (cta.rank, unit)
        queue = self._units.setdefault(key, deque())
        queue.extend((cta, step, description) for step in steps)
        if self.order == "adversarial":
            if key not in self._tempers or self._rng.random() < _CHANGE_OF_MIND:
                self._tempers[key] = self._rng.randrange(3)
            if self._tempers[key] == _EAGER:
                for _ in range(self._rng.randrange(len(queue) + 1)):
                    self._step(key)

    def run_one(self, *, idle: bool = False) -> bool:
        """Does one step: of the oldest unit, or of a random unit that is not late. `idle`: no warp can run, so any
        unit may be chosen. False if there is none."""
        if not self._units:
            return False
        units = list(self._units)
        if self.order == "adversarial" and not idle:
            units = [key for key in units if self._tempers[key] == _RANDOM]
            if not units:
                return False
        self._step(units[0] if self.order == "late" else self._rng.choice(units))
        return True

    def finish(self, cta, unit: Hashable) -> None:
        """Does now what a unit has left to do."""
        while (cta.rank, unit) in self._units:
            self._step((cta.rank, unit))

    def _step(self, key: Hashable) -> None:
        queue = self._units[key]
        cta, step, _ = queue.popleft()
        if not queue:
            del self._units[key]
            self._tempers.pop(key, None)
        step()
        cta.header[st.H_PROGRESS] += 1

    def drain(self) -> None:
        while self.run_one(idle=True):
            pass

    def descriptions(self) -> list[str]:
        return [description for unit in self._units.values() for _, _, description in unit]
