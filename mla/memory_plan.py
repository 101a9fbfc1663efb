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
    """Slots of `slot_bytes` bytes from byte `offset` of shared memory on, `tile_slots` of them to a tile."""

    offset: int
    slot_bytes: int
    tile_slots: int


@dataclass(frozen=True)
class MemoryPlan(ABC):
    """Capacity plan of one CTA, 64 query rows. What differs between the operand paths is filled in by plans.py.

    Shared memory, bytes: Q, the ring of keys, a second ring, P, then small buffers. The second ring is the values', or,
    where keys are read again as values (narrow), that of the rope spans, which no P*V reads: a ring's slots are freed
    in the order in which they are filled. K is cut in spans of 128 bytes of the head dimension (the rope span of fp8:
    64); a span is [rows][its bytes], swizzled. Q and P are cut in chunks of 128 bytes.
    TMEM, columns: O, the ring of S, Q where it is kept there. Accumulators fold N over the lane halves: 64 rows x N
    fp32 take 128 lanes x N / 2 columns.
    """

    config: MlaDecodeConfig
    warps: WarpSchedule
    key_stages: int
    value_stages: int = 0
    rope_stages: int = 0
    cta_rows: int = 64
    score_stages: int = 2
    probs_stages: int = 1
    scale_stages: int = 2
    page_stages: int = 2
    work_stages: int = 2
    page_ids_per_stage: int = WARP_SIZE

    def __post_init__(self) -> None:
        assert self.smem_bytes <= SMEM_BYTES_PER_CTA, f"shared memory: {self.smem_bytes} > {SMEM_BYTES_PER_CTA} bytes"
        assert self.tmem_columns_used <= TMEM_COLUMNS, f"TMEM: {self.tmem_columns_used} > {TMEM_COLUMNS} columns"
        assert self.page_ids_per_stage % self.pages_per_tile == 0, (self.page_ids_per_stage, self.pages_per_tile)
        aligned = (self.query_offset, self.key_offset, self.second_offset, self.probs_offset)
        for offset in (*aligned, *(ring.slot_bytes for ring in self.rings.values())):
            assert offset % SMEM_ALIGN == 0, f"offset {offset}: a swizzle atom starts at a multiple of {SMEM_ALIGN}"
        for part in self.value_parts:
            together, stages = len(part.slots), self.barriers.edge(self.value_edge).stages
            assert stages % together == 0, f"{together} slots side by side in a ring of {stages}"

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
    def key_slots(self) -> tuple[KeySlot, ...]:
        """Ring slots of a tile's keys, in the order of Q*K."""

    @property
    @abstractmethod
    def value_parts(self) -> tuple[ValuePart, ...]:
        """A tile's P*V, in order."""

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

    def key_slot(self, edge: str, number: int, spans: range) -> KeySlot:
        """The slot that holds the spans of these numbers, one behind the other."""
        placed, offset = [], 0
        for span in spans:
            placed.append((span, offset))
            offset += self.key_rows * self.spans[span].bytes
        return KeySlot(edge, number, tuple(placed))

    def key_slot_load_bytes(self, slot: KeySlot) -> int:
        """Bytes that TMA writes to a slot of a whole tile."""
        return self.key_rows * sum(self.spans[span].bytes for span, _ in slot.spans)

    @property
    def key_slot_bytes(self) -> int:
        return max(self.key_slot_load_bytes(slot) for slot in self.key_slots if slot.edge == "keys")

    @property
    def second_offset(self) -> int:
        return self.key_offset + self.key_stages * self.key_slot_bytes

    @property
    def value_edge(self) -> str:
        """The ring that P*V reads."""
        return "keys" if self.keys_are_values else "values"

    @cached_property
    def rings(self) -> dict[str, Ring]:
        """Of keys, and of values or rope spans, by the name of their edge."""
        key_slots = sum(slot.edge == "keys" for slot in self.key_slots)
        rings = {"keys": Ring(self.key_offset, self.key_slot_bytes, key_slots)}
        if self.keys_are_values:
            rings["rope"] = Ring(self.second_offset, self.key_rows * self.rope_bytes, 1)
        else:
            rings["values"] = Ring(self.second_offset, self.value_slot_bytes, len(self.value_parts))
        return rings

    @property
    def probs_offset(self) -> int:
        stages, name = (self.rope_stages, "rope") if self.keys_are_values else (self.value_stages, "values")
        return self.second_offset + stages * self.rings[name].slot_bytes

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

        work: scheduler -> all roles, which release it warp by warp.  query, keys, values, rope: load -> mma (commit
        frees).  tail: load's own wait for all value slots of a ragged tile.  pages: scheduler -> load.
        score: mma (commit) -> softmax.  probs: softmax -> mma (commit frees).  scale: softmax -> correction.
        output: mma (commit, half by half) -> correction, which gives a half of O back rescaled or written.
        """
        softmax, correction = self.warps.softmax_threads, self.warps.correction_threads
        pair = self.cluster_size
        edges = [
            Edge("work", self.work_stages, 1, self.warps.num_workers),
            Edge("query", 1, pair, 1, full_at_leader=True),
            Edge("keys", self.key_stages, pair, 1, full_at_leader=True),
            Edge("tail", 1, self.rings[self.value_edge].tile_slots, 0),
            Edge("pages", self.page_stages, WARP_SIZE, 1),
            Edge("score", self.score_stages, 1, pair * len(self.warps.softmax), empty_at_leader=True),
            Edge("probs", self.probs_stages, pair * len(self.warps.softmax), 1, full_at_leader=True),
            Edge("scale", self.scale_stages, softmax, correction),
            Edge("output", self.output_halves, 1, pair * len(self.warps.correction), empty_at_leader=True),
        ]
        second, stages = ("rope", self.rope_stages) if self.keys_are_values else ("values", self.value_stages)
        edges.append(Edge(second, stages, pair, 1, full_at_leader=True))
        return BarrierPlan(tuple(edges))


def mma_steps(row_bytes: int) -> range:
    """Byte offsets of the K steps along a K-major row of `row_bytes` bytes."""
    assert row_bytes % MMA_K_BYTES == 0, (row_bytes, MMA_K_BYTES)
    return range(0, row_bytes, MMA_K_BYTES)
