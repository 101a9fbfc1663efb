"""The memory plans of the two operand paths, and which config takes which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mla.arch import TMEM_COLUMNS
from mla.config import MlaDecodeConfig
from mla.memory_plan import CHUNK_BYTES, OUTPUT_N, KeySlot, MemoryPlan, ValuePart
from mla.warp_schedule import WarpSchedule

NARROW_STAGES = {1: (10, 2), 2: (8, 2)}  # element bytes: ring slots of keys and of rope spans, as many as fit
# element bytes: ring slots of keys and of values, buffers of P, as many as fit
WIDE_STAGES = {1: (2, 6, 2), 2: (3, 4, 1)}


@dataclass(frozen=True)
class NarrowPlan(MemoryPlan):
    """One CTA, tiles of 64 keys (128 of fp8: a row of P is 128 bytes), read twice: as keys and as values.

    A slot is 16 KiB, a quarter of the latent part of a tile, so that scores start on the first quarter and P*V frees
    half a tile at a time.
    """

    cluster_size = 1
    value_slot_bytes = 0
    query_tmem_spans = 0

    @property
    def tile_tokens(self) -> int:
        return CHUNK_BYTES // self.config.element_bytes

    @property
    def value_chunk_bytes(self) -> int:
        return self.tile_tokens * CHUNK_BYTES

    @property
    def slot_spans(self) -> int:
        """Spans of a slot of the ring of keys."""
        return self.config.element_bytes

    @cached_property
    def key_slots(self) -> tuple[KeySlot, ...]:
        """The latent part, then, in a ring of its own, the rope span."""
        rope = len(self.spans) - 1
        firsts = range(0, rope, self.slot_spans)
        latent = (self.key_slot("keys", n, range(first, first + self.slot_spans)) for n, first in enumerate(firsts))
        return (*latent, self.key_slot("rope", 0, range(rope, rope + 1)))

    @cached_property
    def value_parts(self) -> tuple[ValuePart, ...]:
        slots = OUTPUT_N // (self.slot_spans * self.chunk_elements)
        return tuple(
            ValuePart(half, 0, self.tile_tokens, range(half * slots, (half + 1) * slots))
            for half in range(self.output_halves)
        )


@dataclass(frozen=True)
class WidePlan(MemoryPlan):
    """Two CTAs, tiles of 128 keys. CTA c holds the keys of tokens [64 c, 64 c + 64), and of all 128 tokens the
    values of its half of every 256 latent dimensions: B operands are split over the pair by rows.

    Half of the accumulator columns are O, a quarter is S; the last quarter keeps as much of Q as fits (all latent
    dimensions of fp8, half of bf16 and fp16).
    """

    cluster_size = 2
    tile_tokens = 128

    @cached_property
    def key_slots(self) -> tuple[KeySlot, ...]:
        """A slot of fp8, three of 16 bits."""
        spans = range(len(self.spans))
        together = len(spans) if self.config.element_bytes == 1 else 3
        return tuple(
            self.key_slot("keys", n, spans[first : first + together])
            for n, first in enumerate(range(0, len(spans), together))
        )

    @property
    def value_tokens(self) -> int:
        """Tokens per value slot."""
        return self.tile_tokens // self.config.element_bytes

    @property
    def value_dims(self) -> int:
        """Latent dimensions of a value slot: this CTA's rows of one instruction's B."""
        return OUTPUT_N // self.cluster_size

    @property
    def value_chunk_bytes(self) -> int:
        return self.value_tokens * CHUNK_BYTES

    @property
    def value_slot_bytes(self) -> int:
        return self.value_tokens * self.value_dims * self.config.element_bytes

    @cached_property
    def value_parts(self) -> tuple[ValuePart, ...]:
        """One slot each."""
        firsts = range(0, self.tile_tokens, self.value_tokens)
        places = [(half, first_token) for half in range(self.output_halves) for first_token in firsts]
        return tuple(ValuePart(*place, self.value_tokens, range(n, n + 1)) for n, place in enumerate(places))

    @property
    def query_tmem_spans(self) -> int:
        spare = (TMEM_COLUMNS - self.query_column) // self.span_columns
        return min(spare, self.config.kv_lora_rank * self.config.element_bytes // CHUNK_BYTES)


def plan_of(config: MlaDecodeConfig) -> NarrowPlan | WidePlan:
    """The plan of a config's path."""
    if config.is_wide:
        keys, values, probs = WIDE_STAGES[config.element_bytes]
        return WidePlan(config, WarpSchedule(), key_stages=keys, value_stages=values, probs_stages=probs)
    keys, ropes = NARROW_STAGES[config.element_bytes]
    return NarrowPlan(config, WarpSchedule(), key_stages=keys, rope_stages=ropes)
