"""mbarrier pipelines: edges are declared, arrival counts are derived from who plays which role.

No pipeline state exists. Every role counts its tiles from 0 and passes the count; stage and parity follow from it:
stage = count % stages, parity = (count // stages) & 1. State that lives nowhere cannot be lost inside a helper
(CuTe DSL 4.8.1 silently freezes pipeline state that a helper advances).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import Int32, Uint32

BARRIER_BYTES = 8
LEADER_RANK = 0  # in a pair of CTAs, the one whose thread issues tcgen05.mma


@dataclass(frozen=True)
class Edge:
    """A ring of buffers between one producing and one consuming side.

    producer_arrivals / consumer_arrivals: arrivals that complete a phase of the full / empty barrier: 1 for a
    tcgen05.commit, 1 per CTA for an arrive.expect_tx, else the number of arriving threads or warps. 0 consumers: nobody
    has to tell the producer that it may start a phase; plan/barriers.py says why of each such edge.
    full_at_leader / empty_at_leader: the tensor core waits on this barrier, so that in a pair of CTAs both arrive on
    the leading CTA's. Every other barrier is a CTA's own; commits arrive in both CTAs.
    """

    name: str
    stages: int
    producer_arrivals: int
    consumer_arrivals: int
    full_at_leader: bool = False
    empty_at_leader: bool = False

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
    """An edge bound to its barriers. `base` points at the first full barrier (Int64, shared memory).

    is_paired: the kernel runs on pairs of CTAs, and the barriers that the tensor core waits on are in LEADER_RANK's.
    """

    edge: Edge
    base: Any
    is_paired: bool = False

    def stage(self, count: Any) -> Any:
        return Int32(unsigned(count) % self.edge.stages)

    def parity(self, count: Any) -> Any:
        """Of the phase in which buffer `count` is produced; it is freed in the same."""
        return Int32(unsigned(count) // self.edge.stages & 1)

    def full_barrier(self, count: Any) -> Any:
        return self.base + self.stage(count)

    def empty_barrier(self, count: Any) -> Any:
        assert self.edge.consumer_arrivals, f"edge {self.edge.name} has no empty barriers"
        return self.base + (self.stage(count) + self.edge.stages)

    def wait_full(self, count: Any) -> None:
        """Consumer: until buffer `count` has been produced."""
        cute.arch.mbarrier_wait(self.full_barrier(count), self.parity(count))

    def wait_empty(self, count: Any) -> None:
        """Producer: until buffer `count` may be written. Passes at once for the first `stages` counts."""
        cute.arch.mbarrier_wait(self.empty_barrier(count), (self.parity(count)) ^ 1)

    def wait_drained(self, count: Any) -> None:
        """Anyone: until the consumer has released buffer `count`."""
        cute.arch.mbarrier_wait(self.empty_barrier(count), self.parity(count))

    def arrive_full(self, count: Any) -> None:
        arrive(self.full_barrier(count), self.is_paired and self.edge.full_at_leader)

    def arrive_empty(self, count: Any) -> None:
        arrive(self.empty_barrier(count), self.is_paired and self.edge.empty_at_leader)

    def warp_arrive_full(self, count: Any) -> None:
        """One arrival for the warp, behind what all its lanes have done."""
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            self.arrive_full(count)

    def warp_arrive_empty(self, count: Any) -> None:
        """As warp_arrive_full, of a consumer."""
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            self.arrive_empty(count)

    def expect_bytes(self, count: Any, transaction_bytes: Any) -> None:
        """One arrival that announces what TMA will write for this CTA. One thread."""
        barrier = self.full_barrier(count)
        if self.is_paired and self.edge.full_at_leader:
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, transaction_bytes, LEADER_RANK)
        else:
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, transaction_bytes)


def unsigned(count: Any) -> Any:
    """A count, which is never negative, as an operand of divisions that need not look at its sign."""
    return count if isinstance(count, int) else Uint32(count)


def arrive(barrier: Any, at_leader: bool) -> None:
    """One arrival on a barrier of this CTA, or on the leading CTA's at the same place.

    Of scope .cta there too, as in CUTLASS' pipelines: the leader's thread reads none of what is handed over itself, and
    scope .cluster becomes a fence over the whole GPU (MEMBAR.ALL.GPU), hundreds of cycles twice a key tile.
    """
    if at_leader:
        cute.arch.mbarrier_arrive(barrier, LEADER_RANK)
    else:
        cute.arch.mbarrier_arrive(barrier)


def init_barriers(plan: BarrierPlan, base: Any) -> None:
    """Initialise every barrier; one thread runs this, and a CTA barrier follows."""
    for edge in plan.edges:
        first = base + plan.offset(edge.name) // BARRIER_BYTES
        for stage in range(edge.stages):
            cute.arch.mbarrier_init(first + stage, Int32(edge.producer_arrivals))
        for stage in range(edge.stages, edge.num_barriers):
            cute.arch.mbarrier_init(first + stage, Int32(edge.consumer_arrivals))
