"""Where everything lives: shared-memory byte offsets and TMEM columns, checked against arch.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from mla.arch import MMA_K_BYTES, SMEM_ALIGN, SMEM_BYTES_PER_CTA, SMEM_PORT_BYTES, TMEM_COLUMNS, WARP_SIZE
from mla.config import MlaDecodeConfig
from mla.pipelines import BarrierPlan, Edge
from mla.warp_schedule import WarpSchedule

CHUNK_BYTES = 128  # row pitch of a 128-byte-swizzled chunk
FLOAT_BYTES = 4
INT_BYTES = 4
TMEM_COLUMN_BYTES = 4
WORK_RECORD_INTS = 8  # batch, row tile, begin, end, slot, seq_len_k; of a ragged query: query_begin, seq_len_q
OUTPUT_N = 256  # N of one P*V instruction, the largest


@dataclass(frozen=True)
class Span:
    """A block of columns in shared memory, [rows][bytes], swizzled over its own width.

    start: its first element in the head dimension. bytes: of one row, 128 or 64.
    """

    start: int
    bytes: int


@dataclass(frozen=True)
class ValueSlot:
    """What one ring slot gives to P*V: tokens [first_token, first_token + tokens) of the tile.

    halves: (half of the latent dimension, byte offset in the slot where this CTA's part of it starts).
    """

    first_token: int
    tokens: int
    halves: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MemoryPlan(ABC):
    """Capacity plan of one CTA, 64 query rows. What differs between the operand paths is filled in by plans.py.

    Shared memory, bytes: Q, the ring of keys, the ring of values (wide only: the narrow path reads keys again as
    values), P, then small buffers. K is cut in spans of 128 bytes of the head dimension (the rope span of fp8: 64); a
    span is [rows][its bytes], swizzled. Q and P are cut in chunks of 128 bytes.
    TMEM, columns: O, the ring of S, Q where it is kept there. Accumulators fold N over the lane halves: 64 rows x N
    fp32 take 128 lanes x N / 2 columns.
    """

    config: MlaDecodeConfig
    warps: WarpSchedule
    key_stages: int
    value_stages: int
    cta_rows: int = 64
    score_stages: int = 2
    scale_stages: int = 2
    page_stages: int = 2
    work_stages: int = 2
    page_ids_per_stage: int = WARP_SIZE

    def __post_init__(self) -> None:
        assert self.smem_bytes <= SMEM_BYTES_PER_CTA, f"shared memory: {self.smem_bytes} > {SMEM_BYTES_PER_CTA} bytes"
        assert self.tmem_columns_used <= TMEM_COLUMNS, f"TMEM: {self.tmem_columns_used} > {TMEM_COLUMNS} columns"
        assert self.page_ids_per_stage % self.pages_per_tile == 0, (self.page_ids_per_stage, self.pages_per_tile)
        aligned = (self.query_offset, self.key_offset, self.value_offset, self.probs_offset)
        for offset in (*aligned, self.key_slot_bytes, self.value_slot_bytes):
            assert offset % SMEM_ALIGN == 0, f"offset {offset}: a swizzle atom starts at a multiple of {SMEM_ALIGN}"

    # --- tiles: what a path decides ---
    @property
    @abstractmethod
    def cluster_size(self) -> int:
        """CTAs that compute a row tile together."""

    @property
    @abstractmethod
    def tile_tokens(self) -> int:
        """Keys per tile."""

    @property
    @abstractmethod
    def key_slots(self) -> int:
        """Ring slots that a tile's keys take."""

    @property
    @abstractmethod
    def value_slots(self) -> tuple[ValueSlot, ...]:
        """Ring slots of a tile's values, in the order of P*V."""

    @property
    @abstractmethod
    def value_slot_bytes(self) -> int:
        """Bytes of a slot of the ring of values."""

    @property
    @abstractmethod
    def value_chunk_bytes(self) -> int:
        """Distance, in a value slot, of neighbouring 128-byte chunks of the latent dimension."""

    @property
    @abstractmethod
    def query_tmem_spans(self) -> int:
        """Leading spans of Q that Q*K reads from TMEM instead of shared memory."""

    # --- tiles: what follows ---
    @property
    def is_paired(self) -> bool:
        return self.cluster_size == 2

    @property
    def keys_are_values(self) -> bool:
        return not self.value_stages

    @property
    def tile_rows(self) -> int:
        """Query rows of a row tile, over all CTAs that share it."""
        return self.cta_rows * self.cluster_size

    @property
    def key_rows(self) -> int:
        """Tokens of a tile whose keys this CTA holds."""
        return self.tile_tokens // self.cluster_size

    @property
    def mma_k(self) -> int:
        """K extent of one tcgen05.mma, in elements."""
        return MMA_K_BYTES // self.config.element_bytes

    @property
    def chunk_elements(self) -> int:
        return CHUNK_BYTES // self.config.element_bytes

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The head dimension, latent then rope."""
        latent = [Span(start, CHUNK_BYTES) for start in range(0, self.config.kv_lora_rank, self.chunk_elements)]
        return (*latent, Span(self.config.kv_lora_rank, self.rope_bytes))

    @property
    def rope_bytes(self) -> int:
        return self.config.qk_rope_head_dim * self.config.element_bytes

    @property
    def token_bytes(self) -> int:
        return self.config.head_dim * self.config.element_bytes

    @property
    def box_tokens(self) -> int:
        """Tokens per TMA box of the cache: a page, or this CTA's part of the tile where the page is larger."""
        return min(self.config.page_size, self.key_rows)

    @property
    def pages_per_tile(self) -> int:
        return max(1, self.tile_tokens // self.config.page_size)

    @property
    def tiles_per_page(self) -> int:
        return max(1, self.config.page_size // self.tile_tokens)

    # --- shared memory, bytes ---
    @property
    def query_chunks(self) -> int:
        """Q lies in chunks of 128 bytes of the head dimension; TMA fills what exceeds it (64 bytes of fp8) with zeros,
        which nothing reads. Narrower boxes of a single row would not start at multiples of 128 bytes.
        """
        return -(-self.token_bytes // CHUNK_BYTES)

    @property
    def query_chunk_bytes(self) -> int:
        return self.cta_rows * CHUNK_BYTES

    @property
    def query_bytes(self) -> int:
        return self.query_chunks * self.query_chunk_bytes

    @property
    def query_offset(self) -> int:
        return 0

    @property
    def key_offset(self) -> int:
        return self.query_offset + self.query_bytes

    @property
    def spans_per_key_slot(self) -> int:
        return -(-len(self.spans) // self.key_slots)

    def key_slot_spans(self, slot: int) -> list[tuple[int, Span, int]]:
        """(number, span, byte offset in the slot) of the spans that slot `slot` of a tile holds."""
        first = slot * self.spans_per_key_slot
        placed, offset = [], 0
        for number, span in list(enumerate(self.spans))[first : first + self.spans_per_key_slot]:
            placed.append((number, span, offset))
            offset += self.key_rows * span.bytes
        return placed

    def key_slot_load_bytes(self, slot: int, rows: int) -> int:
        return rows * sum(span.bytes for _, span, _ in self.key_slot_spans(slot))

    @property
    def key_slot_bytes(self) -> int:
        return max(self.key_slot_load_bytes(slot, self.key_rows) for slot in range(self.key_slots))

    @property
    def value_offset(self) -> int:
        return self.key_offset + self.key_stages * self.key_slot_bytes

    @property
    def value_edge(self) -> str:
        """The ring that P*V reads."""
        return "keys" if self.keys_are_values else "values"

    def ring(self, edge: str) -> tuple[int, int]:
        """(byte offset of the first slot, bytes of a slot) of the ring of keys or of values."""
        rings = {
            "keys": (self.key_offset, self.key_slot_bytes),
            "values": (self.value_offset, self.value_slot_bytes),
        }
        return rings[edge]

    @property
    def probs_offset(self) -> int:
        return self.value_offset + self.value_stages * self.value_slot_bytes

    @property
    def probs_row_bytes(self) -> int:
        return self.tile_tokens * self.config.element_bytes

    @property
    def probs_chunk_bytes(self) -> int:
        return self.cta_rows * CHUNK_BYTES

    @property
    def row_exchange_offset(self) -> int:
        """Two buffers of [half][row] floats, through which the two threads of a row share maxima and sums."""
        return self.probs_offset + self.cta_rows * self.probs_row_bytes

    @property
    def scale_offset(self) -> int:
        """[scale stage][row] floats: what the correction warps multiply O with; behind a work item's last tile, its
        row sums.
        """
        return self.row_exchange_offset + 2 * 2 * self.cta_rows * FLOAT_BYTES

    @property
    def page_ids_offset(self) -> int:
        return self.scale_offset + self.scale_stages * self.cta_rows * FLOAT_BYTES

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
        """Columns of one S tile."""
        return self.tile_tokens // 2

    @property
    def score_column(self) -> int:
        return self.output_column + self.output_columns

    @property
    def query_column(self) -> int:
        return self.score_column + self.score_stages * self.score_columns

    @property
    def span_columns(self) -> int:
        """Columns of one span of Q; an A operand in TMEM is stored in both lane halves."""
        return CHUNK_BYTES // TMEM_COLUMN_BYTES

    @property
    def tmem_columns_used(self) -> int:
        return self.query_column + self.query_tmem_spans * self.span_columns

    # --- shared-memory traffic ---
    @property
    def tile_traffic_bytes(self) -> int:
        """Bytes through one SM's shared-memory port per whole key tile: TMA writes, operands read, P written."""
        a_row_bytes, key_bytes = self.cta_rows * MMA_K_BYTES, self.key_rows * MMA_K_BYTES
        steps = self.token_bytes // MMA_K_BYTES
        from_tmem = self.query_tmem_spans * CHUNK_BYTES // MMA_K_BYTES
        scores = steps * (a_row_bytes + key_bytes) - from_tmem * a_row_bytes
        halves = self.config.kv_lora_rank // OUTPUT_N
        value_bytes = OUTPUT_N // self.cluster_size * MMA_K_BYTES
        output = self.tile_tokens // self.mma_k * halves * (a_row_bytes + value_bytes)
        return scores + output + self.tile_load_bytes + self.cta_rows * self.probs_row_bytes

    @property
    def tile_load_bytes(self) -> int:
        """Bytes that TMA writes to one CTA's shared memory per whole key tile."""
        values = 0
        if not self.keys_are_values:
            values = self.tile_tokens * self.config.kv_lora_rank * self.config.element_bytes // self.cluster_size
        return self.key_rows * self.token_bytes + values

    def traffic_cycles(self, tokens: int) -> float:
        """Cycles of the shared-memory port (SMEM_PORT_BYTES each) per `tokens` keys."""
        return self.tile_traffic_bytes / SMEM_PORT_BYTES * tokens / self.tile_tokens

    # --- barriers ---
    @cached_property
    def barriers(self) -> BarrierPlan:
        """Edges: producer -> consumer. What the tensor core waits for lies in the leading CTA, see pipelines.Edge.

        work: scheduler -> all roles, which release it warp by warp.  query, keys, values: load -> mma (commit frees).
        tail: load's own wait on a ragged tile.  pages: scheduler -> load.  score: mma (commit) -> softmax.
        probs: softmax -> mma (commit frees).  scale: softmax -> correction.  rescaled: correction -> mma.
        """
        softmax, correction = self.warps.softmax_threads, self.warps.correction_threads
        pair = self.cluster_size
        edges = [
            Edge("work", self.work_stages, 1, self.warps.num_workers),
            Edge("query", 1, pair, 1, full_at_leader=True),
            Edge("keys", self.key_stages, pair, 1, full_at_leader=True),
            Edge("tail", 1, 1, 0),
            Edge("pages", self.page_stages, WARP_SIZE, 1),
            Edge("score", self.score_stages, 1, pair * len(self.warps.softmax), empty_at_leader=True),
            Edge("probs", 1, pair * len(self.warps.softmax), 1, full_at_leader=True),
            Edge("scale", self.scale_stages, softmax, correction),
            Edge("rescaled", 1, pair * len(self.warps.correction), 0, full_at_leader=True),
        ]
        if not self.keys_are_values:
            edges.append(Edge("values", self.value_stages, pair, 1, full_at_leader=True))
        return BarrierPlan(tuple(edges))


def mma_steps(row_bytes: int) -> range:
    """Byte offsets of the K steps along a K-major row of `row_bytes` bytes."""
    assert row_bytes % MMA_K_BYTES == 0, (row_bytes, MMA_K_BYTES)
    return range(0, row_bytes, MMA_K_BYTES)
