"""What every role is handed: compile-time facts, the work unit, and views of the CTA's buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import AddressSpace, Float32, Int32, Int64

from mla.causal_mask import CausalMask, TilePhases
from mla.config import MlaDecodeConfig
from mla.line import Request, RequestList
from mla.memory_plan import WORK_RECORD_INTS, NarrowPlan
from mla.pipelines import BARRIER_BYTES, Pipeline
from mla.tile_scheduler import TileScheduler


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
    partial_out: Any
    partial_lse: Any
    scale_log2: Any
    output_scale: Any
    cu_seqlens_q: Any
    tree_mask: Any


@dataclass(frozen=True)
class Context:
    """config, plan: compile-time. smem: Int32 shared address of the dynamic shared memory (1024-aligned).

    tmem: Int32 Tensor Memory address of the allocation.
    """

    config: MlaDecodeConfig
    plan: NarrowPlan
    args: Arguments
    smem: Any
    tmem: Any
    scheduler: TileScheduler

    @property
    def requests(self) -> RequestList:
        return RequestList(self.args.seq_lens, self.args.cu_seqlens_q, self.scheduler)

    def pipe(self, name: str) -> Pipeline:
        plan = self.plan.barriers
        offset = self.plan.barrier_offset + plan.offset(name)
        return Pipeline(plan.edge(name), self.smem_pointer(Int64, offset, BARRIER_BYTES))

    def smem_pointer(self, dtype: Any, offset: Any, align: int) -> Any:
        """Pointer into dynamic shared memory, `offset` bytes from its start."""
        return cute.make_ptr(dtype, self.smem + offset, AddressSpace.smem, assumed_align=align)

    def smem_floats(self, offset: int, count: int) -> Any:
        return cute.make_tensor(self.smem_pointer(Float32, offset, 4), cute.make_layout(count))

    def smem_ints(self, offset: int, count: int) -> Any:
        return cute.make_tensor(self.smem_pointer(Int32, offset, 4), cute.make_layout(count))


@dataclass(frozen=True)
class WorkItem:
    """A part of one row tile, read from the `work` ring.

    batch:     request index; negative: no more work.
    request:   its lengths.
    mask:      its visibility rule.
    first_row: first row of the tile in the request's flat (token, head) packing.
    slot:      partial result to write, or -1 to write the output itself.
    phases:    the key tiles of this part.
    """

    batch: Any
    request: Request
    mask: CausalMask
    first_row: Any
    slot: Any
    phases: TilePhases

    def place(self, row: Any) -> tuple[Any, Any, Any]:
        """(batch, token, head) index into query, output and log-sum-exp of a row of the request."""
        return self.request.place(self.batch, row, self.mask.num_heads)


def work_cells(ctx: Context, item: Any) -> Any:
    """The ring entry of work item `item`, WORK_RECORD_INTS integers."""
    stage = item % ctx.plan.work_stages
    pointer = ctx.smem_pointer(Int32, ctx.plan.work_offset + stage * (WORK_RECORD_INTS * 4), 4)
    return cute.make_tensor(pointer, cute.make_layout(WORK_RECORD_INTS))


def has_work(ctx: Context, item: Any) -> Any:
    """Wait for work item `item`; False where the CTA has none left."""
    ctx.pipe("work").wait_full(item)
    return work_cells(ctx, item)[0] >= 0


def read_work(ctx: Context, item: Any) -> WorkItem:
    """The item that has_work announced. The caller releases it with `release_work` once all its lanes have read it."""
    cells = work_cells(ctx, item)
    batch, row_tile, begin, end, slot, seq_len_k = (cells[i] for i in range(WORK_RECORD_INTS - 2))
    request = Request(0, ctx.config.seq_len_q, seq_len_k)
    if ctx.config.ragged_query:
        request = Request(cells[WORK_RECORD_INTS - 2], cells[WORK_RECORD_INTS - 1], seq_len_k)
    scheduler = ctx.scheduler.of_request(request.seq_len_q)
    phases = scheduler.phases(row_tile, seq_len_k, begin, end)
    return WorkItem(batch, request, scheduler.mask, row_tile * scheduler.tile_rows, slot, phases)


def release_work(ctx: Context, item: Any) -> None:
    """One arrival per warp: the ring entry may be overwritten."""
    cute.arch.sync_warp()
    with cute.arch.elect_one():
        ctx.pipe("work").arrive_empty(item)
