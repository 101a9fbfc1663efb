"""Limits of a launch: steps and time. Compiled code runs in bounded slices, so that limits and Ctrl-C are honoured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from numbers import Integral, Real

from .diagnostics import limit_exceeded

FIRST_SLICE = 1 << 14  # micro-operations
LAST_SLICE = 1 << 24
SLICE_SECONDS = 0.1  # compiled code runs about this long at a time


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one launch, None for none. steps: micro-operations, about one per warp and PTX instruction; seconds: of wall
    time."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        if self.steps is not None and not (isinstance(self.steps, Integral) and self.steps >= 1):
            raise ValueError(f"step_limit={self.steps!r}: must be a positive whole number, or None for no limit")
        if self.seconds is not None and not (isinstance(self.seconds, Real) and self.seconds > 0):
            raise ValueError(f"time_limit={self.seconds!r}: must be a positive number of seconds, or None for no limit")


class Watchdog:
    """Keeps a launch within its limits. A cluster that is about to run is armed, and checked when it has paused.

    Clusters have `steps`, which they have taken, and `pause_at(steps)`, where compiled code is to pause next.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.steps = 0  # taken by all clusters, as far as they were checked
        self._deadline: float | None = None
        self._slice = FIRST_SLICE
        self._armed = 0.0
        self._clock = 0

    def arm(self, cluster) -> None:
        """Sets where compiled code is to pause next."""
        now = self._armed = time.monotonic()
        if self._deadline is None and self.limits.seconds is not None:
            self._deadline = now + self.limits.seconds
        self._clock = cluster.steps
        steps = self._slice
        if self.limits.steps is not None:
            steps = min(steps, max(self.limits.steps - self.steps, 1))
        cluster.pause_at(self._clock + steps)

    def check(self, cluster) -> None:
        """Counts what was done since `arm`. Raises LimitExceeded if it is too much."""
        now, clock = time.monotonic(), cluster.steps
        self.steps += clock - self._clock
        self._clock = clock
        spent = now - self._armed
        if spent < SLICE_SECONDS / 2:
            self._slice = min(2 * self._slice, LAST_SLICE)
        elif spent > 2 * SLICE_SECONDS:
            self._slice = max(self._slice // 2, FIRST_SLICE)
        if self.limits.steps is not None and self.steps >= self.limits.steps:
            raise limit_exceeded(cluster, f"step_limit={self.limits.steps}: the launch has taken {self.steps} steps")
        if self._deadline is not None and now > self._deadline:
            raise limit_exceeded(cluster, f"time_limit={self.limits.seconds}: the launch has taken longer")
