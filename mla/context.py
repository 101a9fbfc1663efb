"""What every role is handed: compile-time facts, the work unit, and views of the CTA's buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import AddressSpace, Float32, Int32, Int64

from mla.config import MlaDecodeConfig
from mla.memory_plan import NarrowPlan
from mla.pipelines import BARRIER_BYTES, Pipeline
from mla.tile_scheduler import TileScheduler, WorkUnit


@dataclass(frozen=True)
class Arguments:
    """Kernel arguments. Tensors are traced; see decode.py for their shapes."""

    query_tma: Any
    query: Any
    kv_tma: Any
    kv: Any
    block_tables: Any
    seq_lens: Any
    out: Any
    lse: Any
    scale_log2: Any
    output_scale: Any


@dataclass(frozen=True)
class Context:
    """config, plan: compile-time. smem: Int32 shared address of the dynamic shared memory (1024-aligned).

    tmem: Int32 Tensor Memory address of the allocation. unit: what this CTA computes. seq_len_k: keys of its request.
    """

    config: MlaDecodeConfig
    plan: NarrowPlan
    args: Arguments
    smem: Any
    tmem: Any
    scheduler: TileScheduler
    unit: WorkUnit
    seq_len_k: Any

    def pipe(self, name: str) -> Pipeline:
        plan = self.plan.barriers
        return Pipeline(plan.edge(name), self.smem_pointer(Int64, self.plan.barrier_offset + plan.offset(name), BARRIER_BYTES))

    def smem_pointer(self, dtype: Any, offset: Any, align: int) -> Any:
        """Pointer into dynamic shared memory, `offset` bytes from its start."""
        return cute.make_ptr(dtype, self.smem + offset, AddressSpace.smem, assumed_align=align)

    def smem_floats(self, offset: int, count: int) -> Any:
        return cute.make_tensor(self.smem_pointer(Float32, offset, 4), cute.make_layout(count))

    def smem_ints(self, offset: int, count: int) -> Any:
        return cute.make_tensor(self.smem_pointer(Int32, offset, 4), cute.make_layout(count))
