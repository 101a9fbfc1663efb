"""One launch under several schedules: the result of a right kernel is bit for bit the same under all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..cute_abi.values import buffers_of, is_array
from ..errors import EmulationError, PtxSyntaxError, UnsupportedInstruction
from ..machine.asyncs import ORDERS, SEEDED
from ..report import Report


@dataclass(frozen=True)
class Schedule:
    order: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.order}, seed {self.seed}" if self.order in SEEDED else self.order


def schedules(orders: Sequence[str], seeds: int) -> list[Schedule]:
    """Every order, those that are chosen by a seed with `seeds` of them. Raises ValueError."""
    if not orders or (wrong := [order for order in orders if order not in ORDERS]):
        raise ValueError(
            f"orders={orders!r}: must be of {', '.join(ORDERS)}" + (f", not {wrong[0]!r}" if orders else "")
        )
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds={seeds!r}: must be a whole number of at least 1")
    return [Schedule(order, seed) for order in orders for seed in range(seeds if order in SEEDED else 1)]


class Memory:
    """What arrays hold, so that every schedule starts from the same and ends are compared. Overlapping ones are one
    region."""

    def __init__(self, arrays: Mapping[str, Any]):
        self.arrays = {name: array for name, array in arrays.items() if is_array(array)}
        self.regions = buffers_of(self.arrays.values())

    def contents(self) -> list[np.ndarray]:
        return [region.copy() for region in self.regions]

    def put(self, contents: Sequence[np.ndarray]) -> None:
        for region, saved in zip(self.regions, contents, strict=True):
            if not np.array_equal(region, saved):  # an array that is only read may be read-only memory
                region[...] = saved

    def difference(self, expected: Sequence[np.ndarray]) -> str:
        """Which element is the first that is not as expected, and how many bytes; "" if none."""
        wrong = [np.flatnonzero(region != saved) for region, saved in zip(self.regions, expected, strict=True)]
        count = sum(len(places) for places in wrong)
        if not count:
            return ""
        from ..check.hazards.names import global_place, named_arrays  # compiled code that launches do not load

        region, places = next((r, places) for r, places in zip(self.regions, wrong, strict=True) if len(places))
        first = global_place(named_arrays(self.arrays), region.ctypes.data + int(places[0]))
        return f"{first} first, {count} bytes in all"


@dataclass
class Trial:
    """What came of one schedule. error: what ended it; wrong: what the case's check says; differs: the first element
    that is not as under the first schedule."""

    schedule: Schedule
    reports: list[Report] = field(default_factory=list)
    error: EmulationError | None = None
    wrong: str = ""
    differs: str = ""
    seconds: float = 0.0

    @property
    def hazards(self) -> list:
        """What checks found, in all launches of the trial (they share a checker)."""
        if self.error is not None:
            return list(self.error.hazards)
        return list(self.reports[-1].hazards) if self.reports else []

    @property
    def verdict(self) -> str:
        """In a line; "" if nothing is wrong with the result."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        if self.wrong:
            return f"wrong: {self.wrong}"
        return f"another result: {self.differs}" if self.differs else ""


def try_schedules(
    launch: Callable[..., list[Report]],
    arrays: Mapping[str, Any],
    chosen: Sequence[Schedule],
    *,
    fault: Callable[[], str] = lambda: "",
    begun: Callable[[Schedule], None] = lambda schedule: None,
    ended: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """A trial per schedule, each on the arrays as they are now; afterwards they are as the first one left them.

    `launch(order=..., seed=...)` runs everything once, `fault` says what is wrong with what `arrays` then hold, `begun`
    and `ended` are told. Raises what says that the kernel cannot be run at all.
    """
    memory = Memory(arrays)
    before, trials = memory.contents(), []
    expected = first = None
    for schedule in chosen:
        begun(schedule)
        memory.put(before)
        trial, started = Trial(schedule), time.perf_counter()
        try:
            trial.reports = launch(order=schedule.order, seed=schedule.seed)
        except (PtxSyntaxError, UnsupportedInstruction):
            raise
        except EmulationError as error:
            trial.error = error
        else:
            trial.wrong = fault()
            trial.differs = "" if expected is None else memory.difference(expected)
            expected = memory.contents() if expected is None else expected
        first = memory.contents() if first is None else first
        trial.seconds = time.perf_counter() - started
        trials.append(trial)
        ended(trial)
    if first is not None:
        memory.put(first)
    return trials


def counted(number: int, what: str) -> str:
    """A number with its noun, in the plural where there is not one."""
    return f"{number} {what}{'' if number == 1 else 's'}"
