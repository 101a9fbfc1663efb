"""mbarrier pipelines: edges are declared, arrival counts are derived from who plays which role.

No pipeline state exists. Every role counts its tiles from 0 and passes the count; stage and parity follow from it:
stage = count % stages, parity = (count // stages) & 1. State that lives nowhere cannot be lost inside a helper
(CuTe DSL 4.8.1 silently freezes pipeline state that a helper advances).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import Int32

BARRIER_BYTES = 8


@dataclass(frozen=True)
class Edge:
    """A ring of buffers between one producing and one consuming side.

    producer_arrivals / consumer_arrivals: arrivals that complete a phase of the full / empty barrier: 1 for a
    tcgen05.commit or an arrive.expect_tx, else the number of arriving threads. 0 consumers: the buffer is never reused.
    """

    name: str
    stages: int
    producer_arrivals: int
    consumer_arrivals: int

    @property
    def num_barriers(self) -> int:
        return self.stages * (2 if self.consumer_arrivals else 1)


@dataclass(frozen=True)
class BarrierPlan:
    """All edges of a kernel, laid out one after the other from one shared-memory offset."""

    edges: tuple[Edge, ...]

    @property
    def bytes(self) -> int:
        return BARRIER_BYTES * sum(edge.num_barriers for edge in self.edges)

    def offset(self, name: str) -> int:
        """Byte offset of an edge's first barrier from the start of the plan."""
        position = 0
        for edge in self.edges:
            if edge.name == name:
                return position * BARRIER_BYTES
            position += edge.num_barriers
        raise KeyError(f"{name}: not an edge of {[edge.name for edge in self.edges]}")

    def edge(self, name: str) -> Edge:
        self.offset(name)
        return next(edge for edge in self.edges if edge.name == name)


@dataclass(frozen=True)
class Pipeline:
    """An edge bound to its barriers. `base` points at the first full barrier (Int64, shared memory)."""

    edge: Edge
    base: Any

    def stage(self, count: Any) -> Any:
        return count % self.edge.stages

    def full_barrier(self, count: Any) -> Any:
        return self.base + self.stage(count)

    def empty_barrier(self, count: Any) -> Any:
        assert self.edge.consumer_arrivals, f"edge {self.edge.name} has no empty barriers"
        return self.base + (self.stage(count) + self.edge.stages)

    def wait_full(self, count: Any) -> None:
        """Consumer: until buffer `count` has been produced."""
        cute.arch.mbarrier_wait(self.full_barrier(count), (count // self.edge.stages) & 1)

    def wait_empty(self, count: Any) -> None:
        """Producer: until buffer `count` may be written. Passes at once for the first `stages` counts."""
        cute.arch.mbarrier_wait(self.empty_barrier(count), ((count // self.edge.stages) & 1) ^ 1)

    def wait_drained(self, count: Any) -> None:
        """Anyone: until the consumer has released buffer `count`."""
        cute.arch.mbarrier_wait(self.empty_barrier(count), (count // self.edge.stages) & 1)

    def arrive_full(self, count: Any) -> None:
        cute.arch.mbarrier_arrive(self.full_barrier(count))

    def arrive_empty(self, count: Any) -> None:
        cute.arch.mbarrier_arrive(self.empty_barrier(count))


def init_barriers(plan: BarrierPlan, base: Any) -> None:
    """Initialise every barrier; one thread runs this, and a CTA barrier follows."""
    for edge in plan.edges:
        first = base + plan.offset(edge.name) // BARRIER_BYTES
        for stage in range(edge.stages):
            cute.arch.mbarrier_init(first + stage, Int32(edge.producer_arrivals))
        for stage in range(edge.stages, edge.num_barriers):
            cute.arch.mbarrier_init(first + stage, Int32(edge.consumer_arrivals))
