"""Where everything lives: shared-memory byte offsets and TMEM columns, checked against arch.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mla.arch import MMA_K_BYTES, SMEM_ALIGN, SMEM_BYTES_PER_CTA, SMEM_PORT_BYTES, TMEM_COLUMNS, WARP_SIZE
from mla.config import MlaDecodeConfig
from mla.pipelines import BarrierPlan, Edge
from mla.warp_schedule import WarpSchedule

CHUNK_BYTES = 128  # row pitch of a 128-byte-swizzled chunk
FLOAT_BYTES = 4
INT_BYTES = 4
TMEM_COLUMN_BYTES = 4
WORK_RECORD_INTS = 8
SLOT_BYTES = 16384  # of a slot of keys or values: P*V reads two side by side, or one; four TMA boxes at most
OUTPUT_N = 256  # N of one P*V instruction, the largest
# Halves of O by which Q*K is issued sooner than where its S buffer is read for P*V: scores, softmax and P take longer than
# a tile. Modelled (bench.predict, 1.93 GHz) of fp8 h128 q1 8K b64: without order 52.7 us; 0: 52.7, 1: 51.6, 2: 52.4.
ORDER_LAG = 1


@dataclass(frozen=True)
class Span:
    """A block of columns in shared memory, [rows][bytes], swizzled over its own width.

    start: its first element in the head dimension. bytes: of one row, 128 or 64.
    """

    start: int
    bytes: int


@dataclass(frozen=True)
class KeySlot:
    """What one ring slot gives to Q*K.

    edge: its ring. number: which of the tile's slots of that ring. spans: (number of a span, its byte offset in the
    slot).
    """

    edge: str
    number: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ValuePart:
    """What P*V multiplies with one another: this CTA's part of latent dimensions [256 * half, 256 * half + 256), of
    tokens [first_token, first_token + tokens) of the tile.

    slots: the ring slots that hold it, counted from the tile's first: neighbours in shared memory too.
    """

    half: int
    first_token: int
    tokens: int
    slots: range


@dataclass(frozen=True)
class Ring:
    """`stages` slots of `slot_bytes` bytes from byte `offset` of shared memory on: `tile_slots` of them to a tile, and
    ahead of its tiles `item_slots` to a work item.
    """

    offset: int
    slot_bytes: int
    stages: int
    tile_slots: int
    item_slots: int = 0

    def count(self, items: Any, tiles: Any, number: Any = 0) -> Any:
        """Where a slot comes: behind those of `items` work items and `tiles` key tiles and `number` of its own."""
        return items * self.item_slots + tiles * self.tile_slots + number


@dataclass(frozen=True)
class MemoryPlan(ABC):
    """Capacity plan of one CTA, 64 query rows. What differs between the operand paths is filled in by plans.py.

    Shared memory, bytes: what of Q is multiplied from there; the rings; P; then small buffers. A ring's slots are freed
    in the order in which they are filled, so that rope spans, which no P*V reads, have a ring of their own, and so have
    the values where they are not the keys read again (wide). A work item's Q passes through the ring of keys on its way
    to TMEM. K is cut in spans of 128 bytes of the head dimension (the rope span of fp8: 64); a span is [rows][its
    bytes], swizzled. Q and P are cut in chunks of 128 bytes.
    TMEM, columns: O, the ring of S, Q where it is kept there. Accumulators fold N over the lane halves: 64 rows x N
    fp32 take 128 lanes x N / 2 columns.
    """

    config: MlaDecodeConfig
    warps: WarpSchedule
    key_stages: int
    rope_stages: int
    value_stages: int = 0
    probs_stages: int = 1
    cta_rows: int = 64
    score_stages: int = 2
    scale_stages: int = 3
    page_stages: int = 2
    work_stages: int = 2
    page_ids_per_stage: int = WARP_SIZE

    def __post_init__(self) -> None:
        assert self.smem_bytes <= SMEM_BYTES_PER_CTA, f"shared memory: {self.smem_bytes} > {SMEM_BYTES_PER_CTA} bytes"
        assert self.tmem_columns_used <= TMEM_COLUMNS, f"TMEM: {self.tmem_columns_used} > {TMEM_COLUMNS} columns"
        assert self.page_ids_per_stage % self.pages_per_tile == 0, (self.page_ids_per_stage, self.pages_per_tile)
        aligned = [self.query_offset, self.probs_offset, *(ring.slot_bytes for ring in self.rings.values())]
        for offset in (*aligned, *(ring.offset for ring in self.rings.values())):
            assert offset % SMEM_ALIGN == 0, f"offset {offset}: a swizzle atom starts at a multiple of {SMEM_ALIGN}"
        ring = self.rings[self.value_edge]
        for part in self.value_parts:
            for size in (ring.stages, ring.tile_slots, ring.item_slots):
                assert size % len(part.slots) == 0, f"{len(part.slots)} slots side by side, {size} slots"

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
    def value_parts(self) -> tuple[ValuePart, ...]:
        """A tile's P*V, in order."""

    @property
    @abstractmethod
    def value_chunk_bytes(self) -> int:
        """Distance, in a value slot, of neighbouring 128-byte chunks of the latent dimension."""

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

    @property
    def slot_spans(self) -> int:
        """Spans of a slot of the ring of keys."""
        return SLOT_BYTES // (self.key_rows * CHUNK_BYTES)

    @cached_property
    def key_slots(self) -> tuple[KeySlot, ...]:
        """Ring slots of a tile's keys, in the order of Q*K: the latent part, the rope span."""
        rope = len(self.spans) - 1
        pitch = self.key_rows * CHUNK_BYTES
        latent = [
            KeySlot("keys", number, tuple((first + i, i * pitch) for i in range(self.slot_spans)))
            for number, first in enumerate(range(0, rope, self.slot_spans))
        ]
        return (*latent, KeySlot("rope", 0, ((rope, 0),)))

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
        """Bytes that TMA writes to one CTA's shared memory per work item."""
        return self.query_chunks * self.query_chunk_bytes

    @property
    def query_slot_chunks(self) -> int:
        """Chunks of Q to a slot of the ring of keys."""
        return SLOT_BYTES // self.query_chunk_bytes

    @property
    def query_chunks_kept(self) -> range:
        """Chunks of Q that stay in shared memory, from `query_offset` on: those that are not copied to TMEM."""
        return range(self.query_tmem_spans, self.query_chunks)

    @property
    def query_offset(self) -> int:
        return 0

    @property
    def value_edge(self) -> str:
        """The ring that P*V reads."""
        return "keys" if self.keys_are_values else "values"

    @cached_property
    def rings(self) -> dict[str, Ring]:
        """By the name of their edge, one behind the other."""
        query_slots = self.query_tmem_spans // self.query_slot_chunks
        sizes = [
            ("keys", SLOT_BYTES, self.key_stages, len(self.key_slots) - 1, query_slots),
            ("rope", self.key_rows * self.rope_bytes, self.rope_stages, 1, 0),
        ]
        if not self.keys_are_values:
            sizes.append(("values", SLOT_BYTES, self.value_stages, len(self.value_parts), 0))
        rings, offset = {}, self.query_offset + len(self.query_chunks_kept) * self.query_chunk_bytes
        for name, slot_bytes, stages, *slots in sizes:
            rings[name] = Ring(offset, slot_bytes, stages, *slots)
            offset += slot_bytes * stages
        return rings

    @property
    def probs_offset(self) -> int:
        last = list(self.rings.values())[-1]
        return last.offset + last.stages * last.slot_bytes

    @property
    def probs_row_bytes(self) -> int:
        return self.tile_tokens * self.config.element_bytes

    @property
    def probs_bytes(self) -> int:
        """Bytes of one buffer of P."""
        return self.cta_rows * self.probs_row_bytes

    @property
    def probs_chunk_bytes(self) -> int:
        return self.cta_rows * CHUNK_BYTES

    @property
    def row_exchange_offset(self) -> int:
        """Two buffers of [half][row] floats, through which the two threads of a row share maxima and sums."""
        return self.probs_offset + self.probs_stages * self.probs_bytes

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
    def work_record_ints(self) -> int:
        """Integers of a record: batch, row tile, begin, end, slot, seq_len_k; of a ragged query: query_begin,
        seq_len_q; under visible lengths, so that one warp alone reads all of a row tile's: its SeenKeys, end and
        whole_to.
        """
        given = 6 + 2 * self.config.ragged_query + 2 * self.config.visible_lens
        return max(given, WORK_RECORD_INTS)

    @property
    def barrier_offset(self) -> int:
        return self.work_offset + self.work_stages * self.work_record_ints * INT_BYTES

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
    def output_halves(self) -> int:
        """Parts of O, OUTPUT_N latent dimensions each, that P*V completes and correction gives back one by one."""
        return self.config.kv_lora_rank // OUTPUT_N

    @property
    def half_columns(self) -> int:
        """Columns of one of them."""
        return OUTPUT_N // 2

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
    def query_tmem_spans(self) -> int:
        """Leading spans of Q that Q*K reads from TMEM instead of shared memory: as many as the TMEM of a pair has left,
        all latent dimensions of fp8, half of those of bf16 and fp16. For narrow bf16 there are two more, which would
        take a slot of the ring of keys at each work item and give none.
        """
        return 4

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
        value_bytes = OUTPUT_N // self.cluster_size * MMA_K_BYTES
        output = self.tile_tokens // self.mma_k * self.output_halves * (a_row_bytes + value_bytes)
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

        work: scheduler -> all roles, which release it warp by warp.  query, keys, rope: load -> scores (commit frees).
        values: load -> output (commit frees); on the narrow path output frees the slots of keys.  tail: load's own wait
        for all value slots of a ragged tile, or, as config.avoid may ask, for each ragged slot.  pages: scheduler -> load.  score: scores (commit) -> softmax.
        probs: softmax -> output (commit frees).  scale: softmax -> correction.  output: the output role (commit, half by
        half) -> correction, which gives a half of O back rescaled or written.  order: output (each half issued) ->
        scores. Nobody frees it: P V of tile t waits for its scores, which wait for half (t - score_stages) *
        output_halves - ORDER_LAG, so that the last one issued, of tile t - 1, is in a stage of its own.
        """
        pair = self.cluster_size
        slot_by_slot = self.config.avoids("nan_in_keys", "stores_over_tma")
        edges = [
            Edge("work", self.work_stages, 1, self.warps.num_workers),
            Edge("query", 1, pair, 1, full_at_leader=True),
            *(Edge(name, ring.stages, pair, 1, full_at_leader=True) for name, ring in self.rings.items()),
            Edge("tail", 1, 1 if slot_by_slot else self.rings[self.value_edge].tile_slots, 0),
            Edge("pages", self.page_stages, WARP_SIZE, 1),
            Edge("score", self.score_stages, 1, pair * len(self.warps.softmax), empty_at_leader=True),
            Edge("probs", self.probs_stages, pair * len(self.warps.softmax), 1, full_at_leader=True),
            Edge("scale", self.scale_stages, len(self.warps.softmax) // 2, len(self.warps.correction)),
            Edge("order", self.score_stages * self.output_halves + ORDER_LAG, 1, 0),
            Edge("output", self.output_halves, 1, pair * len(self.warps.correction), empty_at_leader=True),
        ]
        return BarrierPlan(tuple(edges))


def mma_steps(row_bytes: int) -> range:
    """Byte offsets of the K steps along a K-major row of `row_bytes` bytes."""
    assert row_bytes % MMA_K_BYTES == 0, (row_bytes, MMA_K_BYTES)
    return range(0, row_bytes, MMA_K_BYTES)
