"""A tile of keys and the query rows that meet it: sizes, and how K, V, Q and P are cut to be loaded and multiplied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from mla.arch import MMA_K_BYTES
from mla.config import NARROW_ROWS, MlaDecodeConfig

CHUNK_BYTES = 128  # row pitch of a 128-byte-swizzled chunk
SLOT_BYTES = 16384  # of a slot of keys or values: P*V reads two side by side, or one; four TMA boxes at most
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
    """What P*V multiplies with one another, for each half of O alike: this CTA's part of latent dimensions [256 * half,
    256 * half + 256), of tokens [first_token, first_token + tokens) of the tile.

    slots: the ring slots that hold it, counted from the half's first: neighbours in shared memory too.
    """

    first_token: int
    tokens: int
    slots: range


@dataclass(frozen=True)
class TilePlan(ABC):
    """A row tile and its key tiles; what differs between the operand paths is filled in by paths.py.

    K is cut in spans of 128 bytes of the head dimension (the rope span of fp8: 64); a span is [rows][its bytes],
    swizzled. Q and P are cut in chunks of 128 bytes. cta_rows: query rows of one CTA.
    """

    config: MlaDecodeConfig
    cta_rows: int = NARROW_ROWS

    # --- what a path decides ---
    @property
    @abstractmethod
    def cluster_size(self) -> int:
        """CTAs that compute a row tile together."""

    @property
    @abstractmethod
    def keys_are_values(self) -> bool:
        """Whether P*V reads the slots of keys again, so that values are not loaded apart."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Keys per tile."""

    @property
    @abstractmethod
    def probs_over_scores(self) -> bool:
        """Whether P V reads P from Tensor Memory, from the columns of the S that it is made of, and not from shared memory."""

    @property
    @abstractmethod
    def value_parts(self) -> tuple[ValuePart, ...]:
        """P*V of a tile and a half of O, in order."""

    @property
    @abstractmethod
    def value_chunk_bytes(self) -> int:
        """Distance, in a value slot, of neighbouring 128-byte chunks of the latent dimension."""

    # --- rows and tokens ---
    @property
    def is_paired(self) -> bool:
        return self.cluster_size == 2

    @property
    def rows(self) -> int:
        """Query rows of a row tile, over all CTAs that share it."""
        return self.cta_rows * self.cluster_size

    @property
    def key_rows(self) -> int:
        """Tokens of a tile whose keys this CTA holds."""
        return self.tokens // self.cluster_size

    @property
    def box_tokens(self) -> int:
        """Tokens per TMA box of the cache: a page, or this CTA's part of the tile where the page is larger."""
        return min(self.config.page_size, self.key_rows)

    @property
    def pages_per_tile(self) -> int:
        return max(1, self.tokens // self.config.page_size)

    @property
    def tiles_per_page(self) -> int:
        return max(1, self.config.page_size // self.tokens)

    # --- K and V ---
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

    @property
    def value_edge(self) -> str:
        """The ring that P*V reads."""
        return "keys" if self.keys_are_values else "values"

    @property
    def output_halves(self) -> int:
        """Parts of O, OUTPUT_N latent dimensions each, that P*V completes and correction gives back one by one."""
        return self.config.kv_lora_rank // OUTPUT_N

    @property
    def half_slots(self) -> int:
        """Ring slots of a tile's values for a half of O."""
        return sum(len(part.slots) for part in self.value_parts)

    # --- Q and P ---
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
    def probs_row_bytes(self) -> int:
        return self.tokens * self.config.element_bytes

    @property
    def probs_bytes(self) -> int:
        """Bytes of one buffer of P."""
        return self.cta_rows * self.probs_row_bytes

    @property
    def probs_chunk_bytes(self) -> int:
        return self.cta_rows * CHUNK_BYTES


def mma_steps(row_bytes: int) -> range:
    """Byte offsets of the K steps along a K-major row of `row_bytes` bytes."""
    assert row_bytes % MMA_K_BYTES == 0, (row_bytes, MMA_K_BYTES)
    return range(0, row_bytes, MMA_K_BYTES)
