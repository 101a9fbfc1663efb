"""The memory plans of the two operand paths, and which config takes which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mla.arch import TMEM_COLUMNS
from mla.config import MlaDecodeConfig
from mla.memory_plan import CHUNK_BYTES, OUTPUT_N, MemoryPlan, ValueSlot
from mla.warp_schedule import WarpSchedule

WIDE_STAGES = {1: (2, 6), 2: (3, 4)}  # element bytes: ring slots of keys and of values, as many as fit


@dataclass(frozen=True)
class NarrowPlan(MemoryPlan):
    """One CTA, tiles of 64 keys (128 of fp8: a row of P is 128 bytes), two of them in flight, each read twice."""

    key_stages: int = 2
    value_stages: int = 0

    cluster_size = 1
    key_slots = 1
    value_slot_bytes = 0
    query_tmem_spans = 0

    @property
    def tile_tokens(self) -> int:
        return CHUNK_BYTES // self.config.element_bytes

    @property
    def value_chunk_bytes(self) -> int:
        return self.tile_tokens * CHUNK_BYTES

    @cached_property
    def value_slots(self) -> tuple[ValueSlot, ...]:
        half_bytes = OUTPUT_N // self.chunk_elements * self.value_chunk_bytes
        halves = tuple((half, half * half_bytes) for half in range(self.output_halves))
        return (ValueSlot(0, self.tile_tokens, halves),)


@dataclass(frozen=True)
class WidePlan(MemoryPlan):
    """Two CTAs, tiles of 128 keys. CTA c holds the keys of tokens [64 c, 64 c + 64), and of all 128 tokens the
    values of its half of every 256 latent dimensions: B operands are split over the pair by rows.

    Half of the accumulator columns are O, a quarter is S; the last quarter keeps as much of Q as fits (all latent
    dimensions of fp8, half of bf16 and fp16).
    """

    cluster_size = 2
    tile_tokens = 128

    @property
    def key_slots(self) -> int:
        return 3 if self.config.element_bytes == 2 else 1

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
    def value_slots(self) -> tuple[ValueSlot, ...]:
        return tuple(
            ValueSlot(first_token, self.value_tokens, ((half, 0),))
            for half in range(self.output_halves)
            for first_token in range(0, self.tile_tokens, self.value_tokens)
        )

    @property
    def query_tmem_spans(self) -> int:
        spare = (TMEM_COLUMNS - self.query_column) // self.span_columns
        return min(spare, self.config.kv_lora_rank * self.config.element_bytes // CHUNK_BYTES)


def plan_of(config: MlaDecodeConfig) -> NarrowPlan | WidePlan:
    """The plan of a config's path."""
    if config.is_wide:
        return WidePlan(config, WarpSchedule(), *WIDE_STAGES[config.element_bytes])
    return NarrowPlan(config, WarpSchedule())
