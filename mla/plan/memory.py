"""The whole plan of a CTA, checked against arch.py, and what its tiles take of the shared-memory port."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mla.arch import MMA_K_BYTES, SMEM_ALIGN, SMEM_BYTES_PER_CTA, SMEM_PORT_BYTES, TMEM_COLUMNS
from mla.config import INT_BYTES, MlaDecodeConfig
from mla.pipelines import BarrierPlan
from mla.plan.barriers import barriers_of
from mla.plan.smem import SmemPlan
from mla.plan.tile import CHUNK_BYTES, OUTPUT_N, TilePlan
from mla.plan.tmem import TmemPlan
from mla.warp_schedule import WarpSchedule


@dataclass(frozen=True)
class MemoryPlan:
    """Shared memory and TMEM of one CTA, its warps and barriers. Raises AssertionError, with the numbers, where it does
    not fit.
    """

    smem: SmemPlan
    warps: WarpSchedule

    def __post_init__(self) -> None:
        smem, tile = self.smem, self.tile
        assert self.smem_bytes <= SMEM_BYTES_PER_CTA, f"shared memory: {self.smem_bytes} > {SMEM_BYTES_PER_CTA} bytes"
        columns = self.tmem.columns_used
        assert columns <= TMEM_COLUMNS, f"TMEM: {columns} > {TMEM_COLUMNS} columns"
        assert smem.page_ids_per_stage % tile.pages_per_tile == 0, (smem.page_ids_per_stage, tile.pages_per_tile)
        aligned = [smem.query_offset, smem.probs_offset, *(ring.slot_bytes for ring in smem.rings.values())]
        for offset in (*aligned, *(ring.offset for ring in smem.rings.values())):
            assert offset % SMEM_ALIGN == 0, f"offset {offset}: a swizzle atom starts at a multiple of {SMEM_ALIGN}"
        ring = smem.rings[tile.value_edge]
        for part in tile.value_parts:
            for size in (ring.stages, ring.tile_slots, ring.item_slots):
                assert size % len(part.slots) == 0, f"{len(part.slots)} slots side by side, {size} slots"
        if tile.keys_are_values:
            # The load role asks for the next work item's query before it hands over the last tile's values.
            free = ring.stages - ring.tile_slots
            assert ring.item_slots <= free, f"the query's {ring.item_slots} slots, {free} beside a tile's"

    @property
    def tile(self) -> TilePlan:
        return self.smem.tile

    @property
    def tmem(self) -> TmemPlan:
        return self.smem.tmem

    @property
    def config(self) -> MlaDecodeConfig:
        return self.tile.config

    @cached_property
    def barriers(self) -> BarrierPlan:
        return barriers_of(self.smem, self.warps)

    # --- shared memory behind the buffers, bytes ---
    @property
    def barrier_offset(self) -> int:
        return self.smem.end

    @property
    def tmem_pointer_offset(self) -> int:
        return self.barrier_offset + self.barriers.bytes

    @property
    def smem_bytes(self) -> int:
        return self.tmem_pointer_offset + INT_BYTES

    # --- shared-memory traffic ---
    @property
    def tile_traffic_bytes(self) -> int:
        """Bytes through one SM's shared-memory port per whole key tile: TMA writes, operands read, P written; it is
        read for each half of O, or once, on its way to TMEM.
        """
        tile = self.tile
        a_row_bytes, key_bytes = tile.cta_rows * MMA_K_BYTES, tile.key_rows * MMA_K_BYTES
        steps = tile.token_bytes // MMA_K_BYTES
        from_tmem = self.tmem.query_spans * CHUNK_BYTES // MMA_K_BYTES
        scores = steps * (a_row_bytes + key_bytes) - from_tmem * a_row_bytes
        value_bytes = OUTPUT_N // tile.cluster_size * MMA_K_BYTES
        values = tile.tokens // tile.mma_k * tile.output_halves * value_bytes
        probs_reads = 1 if tile.probs_over_scores else tile.output_halves
        return scores + values + self.tile_load_bytes + (1 + probs_reads) * tile.probs_bytes

    @property
    def tile_load_bytes(self) -> int:
        """Bytes that TMA writes to one CTA's shared memory per whole key tile."""
        tile, values = self.tile, 0
        if not tile.keys_are_values:
            values = tile.tokens * self.config.kv_lora_rank * self.config.element_bytes // tile.cluster_size
        return tile.key_rows * tile.token_bytes + values

    def traffic_cycles(self, tokens: int) -> float:
        """Cycles of the shared-memory port (SMEM_PORT_BYTES each) per `tokens` keys."""
        return self.tile_traffic_bytes / SMEM_PORT_BYTES * tokens / self.tile.tokens
