"""What every role is handed: compile-time facts, the work unit, and views of the CTA's buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import AddressSpace, Float32, Int32, Int64

from mla.causal_mask import CausalMask, SeenKeys, TilePhases, quotient
from mla.config import MlaDecodeConfig
from mla.pipelines import BARRIER_BYTES, LEADER_RANK, Pipeline
from mla.plan.memory import MemoryPlan
from mla.plan.tile import CHUNK_BYTES
from mla.tile_scheduler import TileScheduler
from mla.varlen import Request, RequestList


@dataclass(frozen=True)
class Boxes:
    """A tensor in global memory as TMA reads it: the copy atom, and the tensor of its coordinates."""

    atom: Any
    tensor: Any


@dataclass(frozen=True)
class Column:
    """Columns that TMA loads: box number `coordinate`, `elements` wide, to `offset` bytes into a ring slot."""

    boxes: Boxes
    coordinate: Any
    elements: int
    offset: int


@dataclass(frozen=True)
class Slot:
    """What goes into a ring slot.

    edge: the ring. columns: what of each token. first_token: first token, counted from the tile's first. tokens: how
    many, if the tile is whole.
    """

    edge: str
    columns: list[Column]
    first_token: Any
    tokens: int


@dataclass(frozen=True)
class Arguments:
    """Kernel arguments. Tensors are traced; see decode.py for their shapes.

    query, kv: boxes 128 bytes wide. kv_rope: of the rotary dimensions, 64 bytes wide in fp8.
    kv_tail, rope_tail: as those, for copies that signal a barrier of this CTA; None on the narrow path, where all do.
    zeros: as kv, of one row. These two only where config.avoid asks for them.
    """

    query: Boxes
    kv: Boxes
    kv_rope: Boxes
    kv_tail: Boxes | None
    block_tables: Any
    seq_lens: Any
    out: Any
    lse: Any
    partial_out: Any
    partial_lse: Any
    cuts: Any
    scale_log2: Any
    output_scale: Any
    cu_seqlens_q: Any
    tree_mask: Any
    visible_lens: Any
    rope_tail: Boxes | None = None
    zeros: Boxes | None = None


@dataclass(frozen=True)
class Context:
    """config, plan: compile-time. smem: Int32 shared address of the dynamic shared memory (1024-aligned).

    tmem: Int32 Tensor Memory address of the allocation. cta_rank: rank in the pair of CTAs, 0 where there is none.
    """

    config: MlaDecodeConfig
    plan: MemoryPlan
    args: Arguments
    smem: Any
    tmem: Any
    cta_rank: Any
    scheduler: TileScheduler

    @property
    def requests(self) -> RequestList:
        return RequestList(self.args.seq_lens, self.args.cu_seqlens_q, self.args.visible_lens, self.scheduler)

    @property
    def is_leader(self) -> Any:
        return self.cta_rank == LEADER_RANK

    @property
    def first_cta_row(self) -> Any:
        """First row, in a row tile, of those that this CTA works on."""
        return self.cta_rank * self.plan.tile.cta_rows

    def pipe(self, name: str) -> Pipeline:
        plan = self.plan.barriers
        offset = self.plan.barrier_offset + plan.offset(name)
        return Pipeline(plan.edge(name), self.smem_pointer(Int64, offset, BARRIER_BYTES), self.plan.tile.is_paired)

    def slot_offset(self, edge: str, count: Any) -> Any:
        """Byte offset, in dynamic shared memory, of slot `count` of one of the plan's rings."""
        ring = self.plan.smem.rings[edge]
        return ring.offset + self.pipe(edge).stage(count) * ring.slot_bytes

    def probs_offset(self, count: Any) -> Any:
        """Byte offset, in dynamic shared memory, of P(count)."""
        return self.plan.smem.probs_offset + self.pipe("probs").stage(count) * self.plan.tile.probs_bytes

    def smem_pointer(self, dtype: Any, offset: Any, align: int) -> Any:
        """Pointer into dynamic shared memory, `offset` bytes from its start."""
        return cute.make_ptr(dtype, self.smem + offset, AddressSpace.smem, assumed_align=align)

    def smem_floats(self, offset: int, count: int) -> Any:
        return cute.make_tensor(self.smem_pointer(Float32, offset, 4), cute.make_layout(count))

    def smem_ints(self, offset: int, count: int) -> Any:
        return cute.make_tensor(self.smem_pointer(Int32, offset, 4), cute.make_layout(count))


def latent_slot(ctx: Context, number: Any) -> Slot:
    """Latent spans of this CTA's keys: number `number` of a tile's slots of the ring of keys."""
    plan = ctx.plan
    pitch = plan.tile.key_rows * CHUNK_BYTES
    spans = range(plan.tile.slot_spans)
    columns = [Column(ctx.args.kv, number * len(spans) + i, plan.tile.chunk_elements, i * pitch) for i in spans]
    return Slot("keys", columns, ctx.cta_rank * plan.tile.key_rows, plan.tile.key_rows)


@dataclass(frozen=True)
class WorkItem:
    """A part of one row tile, read from the `work` ring.

    batch:     request index; negative: no more work.
    request:   its lengths.
    mask:      its visibility rule.
    first_row: this CTA's first row in the request's flat (token, head) packing.
    slot:      partial result to write, or -1 to write the output itself.
    phases:    the key tiles of this part.
    """

    batch: Any
    request: Request
    mask: CausalMask
    first_row: Any
    slot: Any
    phases: TilePhases

    def row_coord(self, row: Any) -> tuple[Any, Any, Any]:
        """(batch, token, head) index into query, output and log-sum-exp of a row of the request."""
        return self.request.row_coord(self.batch, row, self.mask.num_heads)


def work_cells(ctx: Context, item: Any) -> Any:
    """The ring entry of work item `item`, `work_record_ints` integers."""
    stage = item - quotient(item, ctx.plan.smem.work_stages) * ctx.plan.smem.work_stages
    pointer = ctx.smem_pointer(Int32, ctx.plan.smem.work_offset + stage * (ctx.plan.smem.work_record_ints * 4), 4)
    return cute.make_tensor(pointer, cute.make_layout(ctx.plan.smem.work_record_ints))


def has_work(ctx: Context, item: Any) -> Any:
    """Wait for work item `item`; False where the CTA has none left."""
    ctx.pipe("work").wait_full(item)
    return work_cells(ctx, item)[0] >= 0


def read_work(ctx: Context, item: Any) -> WorkItem:
    """The item that has_work has found. The caller releases it with `release_work` once all its lanes have read it."""
    cells = work_cells(ctx, item)
    batch, row_tile, begin, end, slot, seq_len_k = (cells[i] for i in range(6))
    request, told = Request(0, ctx.config.seq_len_q, seq_len_k), 6
    if ctx.config.ragged_query:
        request, told = Request(cells[told], cells[told + 1], seq_len_k), told + 2
    scheduler = ctx.requests.scheduler_of(batch, request)
    if ctx.config.visible_lens:
        seen = SeenKeys(cells[told], cells[told + 1])
    else:
        seen = scheduler.seen_keys(row_tile, seq_len_k)
    phases = scheduler.phases(seen, begin, end)
    first_row = row_tile * scheduler.tile_rows + ctx.first_cta_row
    return WorkItem(batch, request, scheduler.mask, first_row, slot, phases)


def release_work(ctx: Context, item: Any) -> None:
    """One arrival per warp: the ring entry may be overwritten."""
    ctx.pipe("work").warp_arrive_empty(item)
