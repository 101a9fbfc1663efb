"""Where everything lives: shared-memory byte offsets and TMEM columns of the narrow path, checked against arch.py."""

from __future__ import annotations

from dataclasses import dataclass

from mla.arch import MMA_K_BYTES, SMEM_ALIGN, SMEM_BYTES_PER_CTA, TMEM_COLUMNS, WARP_SIZE
from mla.config import MlaDecodeConfig
from mla.pipelines import BarrierPlan, Edge
from mla.warp_schedule import WarpSchedule

SWIZZLE_BYTES = 128  # row pitch of a 128-byte-swizzled chunk
FLOAT_BYTES = 4
INT_BYTES = 4
WORK_RECORD_INTS = 8  # batch, row tile, begin, end, slot, seq_len_k; of a ragged query: query_begin, seq_len_q


@dataclass(frozen=True)
class NarrowPlan:
    """Capacity plan of one CTA: 64 query rows against key tiles of 64 tokens (128 of fp8), two of them in flight.

    Shared memory, bytes: Q (64 rows), K/V ring (the K tile is read again as V), P, then small buffers. Q and K are cut
    in chunks of 128 bytes of the head dimension; a chunk is [rows][128 B] with the 128-byte swizzle.
    TMEM, columns: O (M=64 .ws folds N: 64x512 fp32 in 128 lanes x 256 columns), then the S ring, folded alike.
    """

    config: MlaDecodeConfig
    warps: WarpSchedule
    tile_rows: int = 64
    kv_stages: int = 2
    score_stages: int = 2
    scale_stages: int = 2
    page_stages: int = 2
    work_stages: int = 2
    page_ids_per_stage: int = WARP_SIZE

    def __post_init__(self) -> None:
        assert self.smem_bytes <= SMEM_BYTES_PER_CTA, f"shared memory: {self.smem_bytes} > {SMEM_BYTES_PER_CTA} bytes"
        assert self.tmem_columns_used <= TMEM_COLUMNS, f"TMEM: {self.tmem_columns_used} > {TMEM_COLUMNS} columns"
        assert self.page_ids_per_stage % self.pages_per_tile == 0, (self.page_ids_per_stage, self.pages_per_tile)
        for offset in (self.query_offset, self.kv_offset, self.probs_offset):
            assert offset % SMEM_ALIGN == 0, f"offset {offset}: a swizzle atom starts at a multiple of {SMEM_ALIGN}"

    # --- tiles ---
    @property
    def chunk_elements(self) -> int:
        return SWIZZLE_BYTES // self.config.element_bytes

    @property
    def tile_tokens(self) -> int:
        """Keys per tile: as many as make a row of P 128 bytes."""
        return SWIZZLE_BYTES // self.config.element_bytes

    @property
    def chunks(self) -> int:
        """128-byte chunks of the head dimension, latent and rope; TMA fills what exceeds it with zeros."""
        return -(-self.config.head_dim // self.chunk_elements)

    @property
    def mma_k(self) -> int:
        """K extent of one tcgen05.mma, in elements."""
        return MMA_K_BYTES // self.config.element_bytes

    @property
    def box_tokens(self) -> int:
        """Tokens per TMA box of the cache: a page, or the tile where the page is larger."""
        return min(self.config.page_size, self.tile_tokens)

    @property
    def pages_per_tile(self) -> int:
        return self.tile_tokens // self.box_tokens

    @property
    def tiles_per_page(self) -> int:
        return self.config.page_size // self.box_tokens

    @property
    def tiles_per_page_stage(self) -> int:
        """Key tiles whose page ids fit in one stage of the page-table ring."""
        return self.page_ids_per_stage // self.pages_per_tile * self.tiles_per_page

    # --- shared memory, bytes ---
    @property
    def query_chunk_bytes(self) -> int:
        return self.tile_rows * SWIZZLE_BYTES

    @property
    def kv_chunk_bytes(self) -> int:
        return self.tile_tokens * SWIZZLE_BYTES

    @property
    def kv_stage_bytes(self) -> int:
        return self.chunks * self.kv_chunk_bytes

    @property
    def kv_box_bytes(self) -> int:
        return self.box_tokens * SWIZZLE_BYTES

    @property
    def query_bytes(self) -> int:
        return self.chunks * self.query_chunk_bytes

    @property
    def query_offset(self) -> int:
        return 0

    @property
    def kv_offset(self) -> int:
        return self.query_offset + self.query_bytes

    @property
    def probs_offset(self) -> int:
        return self.kv_offset + self.kv_stages * self.kv_stage_bytes

    @property
    def probs_bytes(self) -> int:
        return self.tile_rows * self.tile_tokens * self.config.element_bytes

    @property
    def row_exchange_offset(self) -> int:
        """Two buffers of [half][row] floats, through which the two threads of a row share maxima and sums."""
        return self.probs_offset + self.probs_bytes

    @property
    def scale_offset(self) -> int:
        """[scale stage][row] floats: what the correction warps multiply O with; behind a work item's last tile, its
        row sums.
        """
        return self.row_exchange_offset + 2 * 2 * self.tile_rows * FLOAT_BYTES

    @property
    def page_ids_offset(self) -> int:
        return self.scale_offset + self.scale_stages * self.tile_rows * FLOAT_BYTES

    @property
    def work_offset(self) -> int:
        """[work stage][record] integers: what the scheduler warp tells the others."""
        return self.page_ids_offset + self.page_stages * self.page_ids_per_stage * INT_BYTES

    @property
    def barrier_offset(self) -> int:
        return self.work_offset + self.work_stages * WORK_RECORD_INTS * INT_BYTES

    @property
    def tmem_pointer_offset(self) -> int:
        return self.barrier_offset + self.barriers.bytes

    @property
    def smem_bytes(self) -> int:
        return self.tmem_pointer_offset + INT_BYTES

    # --- TMEM, columns ---
    @property
    def output_column(self) -> int:
        return 0

    @property
    def output_columns(self) -> int:
        return self.config.kv_lora_rank // 2

    @property
    def score_columns(self) -> int:
        """Columns of one S tile: N folded in two halves of the lanes."""
        return self.tile_tokens // 2

    @property
    def score_column(self) -> int:
        return self.output_column + self.output_columns

    @property
    def tmem_columns_used(self) -> int:
        return self.score_column + self.score_stages * self.score_columns

    # --- barriers ---
    @property
    def barriers(self) -> BarrierPlan:
        """Edges: producer -> consumer.

        work: scheduler -> all roles, which release it warp by warp.  query, kv: load -> mma (commit frees).
        tail: load's own wait on a ragged tile.  pages: page table -> load.  score: mma (commit) -> softmax.
        probs: softmax -> mma (commit frees).  scale: softmax -> correction.  rescaled: correction -> mma.
        """
        softmax, correction = self.warps.softmax_threads, self.warps.correction_threads
        return BarrierPlan(
            (
                Edge("work", self.work_stages, 1, self.warps.num_workers),
                Edge("query", 1, 1, 1),
                Edge("kv", self.kv_stages, 1, 1),
                Edge("tail", 1, 1, 0),
                Edge("pages", self.page_stages, WARP_SIZE, 1),
                Edge("score", self.score_stages, 1, softmax),
                Edge("probs", 1, softmax, 1),
                Edge("scale", self.scale_stages, softmax, correction),
                Edge("rescaled", 1, correction, 0),
            )
        )
