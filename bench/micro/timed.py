"""What of a program is timed: the launches that it takes, and the number that their clocks give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

END, MARK = 0, 1  # columns of the clocks that a program leaves (base.program)


@dataclass(frozen=True)
class Timed:
    """`build(n)` gives (ptx, options). runs: (n,), the cycles of that run, or (n1, n2), what one more of n takes.

    column: the clock that counts, END or MARK. cold: the program's own instruction fetch counts, so it must be the first
    launch of its code; all others are of code that is in the instruction cache. flushed: it reads what must not be in
    L2 before. timer: the other clock has nanoseconds, and the number is the ratio of the two, cycles a nanosecond.
    """

    build: Callable[[int], tuple[str, dict]]
    runs: tuple[int, ...] = (8, 24)
    column: int = END
    cold: bool = False
    flushed: bool = False
    timer: bool = False

    def number(self, clocks: Sequence[Sequence[float]]) -> float:
        """From (END, MARK) of each of `runs`."""
        if self.timer:
            return clocks[0][END] / clocks[0][MARK]
        values = [pair[self.column] for pair in clocks]
        if len(values) == 1:
            return values[0]
        return (values[1] - values[0]) / (self.runs[1] - self.runs[0])
