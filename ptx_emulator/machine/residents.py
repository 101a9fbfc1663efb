"""Which clusters of a grid run: in which order they start, and how many are resident together.

Clusters run one after the other while they can. One that only others can help, because its warps wait or spin, is
suspended, and the next one starts, up to a number of resident ones; then those whose surroundings have changed since go
on. Under "adversarial" a few clusters share time from the start. A deadlock is one of all resident clusters.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

from ..engine import state as st
from .cluster import SMS, Cluster, Outcome, Patience
from .diagnostics import deadlock

CLUSTER_ORDERS = ("ascending", "descending", "random")
MOST_SHARING = 4  # clusters that share time under "adversarial"


class Waiting:
    """The numbers of the clusters that have not started, in the order in which they will; x counts fastest."""

    def __init__(self, dims: tuple[int, int, int], order: str, rng):
        self._dims = dims
        self._total = math.prod(dims)
        self._step, self._first, self._taken = 1, 0, 0
        if order == "descending":
            self._step, self._first = -1, self._total - 1
        elif order == "random":
            self._first = rng.randrange(self._total)
            self._step = rng.randrange(self._total) | 1
            while math.gcd(self._step, self._total) != 1:
                self._step += 1

    def __len__(self) -> int:
        return self._total - self._taken

    def next_number(self) -> int:
        number = (self._first + self._step * self._taken) % self._total
        self._taken += 1
        return number

    def place(self, number: int) -> tuple[int, int, int]:
        nx, ny, _ = self._dims
        return number % nx, number // nx % ny, number // (nx * ny)

    def popleft(self) -> tuple[int, int, int]:
        """Takes the next cluster away; its position in the grid, in clusters."""
        return self.place(self.next_number())


@dataclass(slots=True, eq=False)
class _Running:
    """A cluster that has started. change: of everything, when it was found stuck; certain: that it was."""

    cluster: Cluster
    number: int
    stuck: bool = False
    certain: bool = False
    change: int = -1


class Residents:
    """The clusters of one grid that have started and not ended.

    make     a function that makes a Cluster with its observer
    counters of the clusters that have run, by their number
    """

    def __init__(self, grid, make, limit: int | None):
        self._grid = grid
        self._make = make
        self.limit = limit or max(1, SMS // math.prod(grid.cluster_dim))
        self.clusters: list[Cluster] = [make()]
        self._free = list(self.clusters)
        self._running: deque[_Running] = deque()
        self._ended_changes = 0
        self.counters: dict[int, Counter] = {}
        several = grid.order == "adversarial" and self.limit > 1 and len(grid.waiting) > 1
        self._sharing = min(self.limit, grid.rng.randrange(MOST_SHARING) + 1) if several else 1
        grid.shares_time = self._sharing > 1

    def start(self) -> _Running:
        """Starts the next cluster of the grid."""
        waiting = self._grid.waiting
        if not self._free:
            self.clusters.append(self._make())
            self._free.append(self.clusters[-1])
        number = waiting.next_number()
        running = _Running(self._free.pop(), number)
        running.cluster.start(waiting.place(number))
        self._running.append(running)
        return running

    def run_one(self) -> None:
        """Starts one cluster and runs it as far as it gets before another grid has ended."""
        one = self.start()
        self._run(one, Patience.CERTAIN)
        one.stuck = False

    def run_all(self) -> None:
        while self._running or self._grid.waiting:
            self._run(*self._next())

    def _next(self) -> tuple[_Running, Patience]:
        """Who runs now, and with how much patience. Raises Deadlock if nobody can."""
        running, more = self._running, len(self._grid.waiting) > 0 and len(self._running) < self.limit
        able = [one for one in running if not one.stuck]
        if able and (len(running) >= self._sharing or not more):
            one = self._grid.rng.choice(able) if len(able) > 1 else able[0]
        elif more:
            one = self.start()
        else:
            return self._next_stuck()
        return one, Patience.CERTAIN if len(running) == 1 and not self._grid.waiting else Patience.SOME

    def _next_stuck(self) -> tuple[_Running, Patience]:
        change = self._change()
        for one in self._running:
            if one.change != change:
                self._running.remove(one)
                self._running.append(one)
                return one, Patience.NONE if len(self._running) > 1 else Patience.CERTAIN
        for one in self._running:
            if not one.certain:
                return one, Patience.CERTAIN
        for one in self._running:
            if one.cluster.observer is not None:
                self._grid.enter(one.cluster)
                one.cluster.observer.deadlocked()
        raise deadlock(*(one.cluster for one in self._running), never=len(self._grid.waiting))

    def _change(self) -> int:
        """Another number after every change that a cluster could be waiting for."""
        return self._ended_changes + sum(int(one.cluster.header[st.H_PROGRESS]) for one in self._running)

    def _run(self, one: _Running, patience: Patience) -> None:
        before = self._grid.total_counters()
        outcome = one.cluster.run(patience)
        self.counters.setdefault(one.number, Counter()).update(self._grid.total_counters() - before)
        one.stuck = outcome is Outcome.STUCK
        if outcome is Outcome.DONE:
            self._ended_changes += int(one.cluster.header[st.H_PROGRESS]) + 1
            self._running.remove(one)
            self._free.append(one.cluster)
        elif one.stuck:
            one.change, one.certain = self._change(), patience is Patience.CERTAIN
