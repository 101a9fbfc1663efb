"""The tiles of the two operand paths, and which config takes which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mla.config import MlaDecodeConfig
from mla.plan.memory import MemoryPlan
from mla.plan.smem import SmemPlan
from mla.plan.tile import CHUNK_BYTES, OUTPUT_N, TilePlan, ValuePart
from mla.plan.tmem import TmemPlan
from mla.warp_schedule import WarpSchedule

# Element bytes: ring slots of keys, of rope spans and, apart on the wide path, of values, and there buffers of P: as
# many as fit.
NARROW_STAGES = {1: (12, 2), 2: (10, 2)}
WIDE_STAGES = {1: (6, 2, 6, 2), 2: (5, 2, 5, 1)}


@dataclass(frozen=True)
class NarrowTile(TilePlan):
    """One CTA, tiles of 64 keys (128 of fp8: a row of P is 128 bytes), read twice: as keys and as values.

    A slot is 16 KiB, a quarter of the latent part of a tile, so that scores start on the first quarter and P*V frees
    half a tile at a time.
    """

    cluster_size = 1
    keys_are_values = True
    probs_over_scores = False

    @property
    def tokens(self) -> int:
        return CHUNK_BYTES // self.config.element_bytes

    @property
    def value_chunk_bytes(self) -> int:
        return self.tokens * CHUNK_BYTES

    @cached_property
    def value_parts(self) -> tuple[ValuePart, ...]:
        return (ValuePart(0, self.tokens, range(OUTPUT_N // (self.slot_spans * self.chunk_elements))),)


@dataclass(frozen=True)
class WideTile(TilePlan):
    """Two CTAs, tiles of 128 keys. CTA c holds the keys of tokens [64 c, 64 c + 64), and of all 128 tokens the
    values of its half of every 256 latent dimensions: B operands are split over the pair by rows.

    Half of the columns of TMEM are O, a quarter is S, the last quarter is Q.
    """

    cluster_size = 2
    keys_are_values = False
    tokens = 128

    @property
    def probs_over_scores(self) -> bool:
        """Of 16 bits, where the shared-memory port binds and P V takes longer than the way from S to P. In fp8 the next
        scores, which go over P, would come late: modelled, fp8 h128 q2 8K b32 55 us instead of 52.
        """
        return self.config.element_bytes == 2

    @property
    def value_tokens(self) -> int:
        """Tokens per value slot."""
        return self.tokens // self.config.element_bytes

    @property
    def value_dims(self) -> int:
        """Latent dimensions of a value slot: this CTA's rows of one instruction's B."""
        return OUTPUT_N // self.cluster_size

    @property
    def value_chunk_bytes(self) -> int:
        return self.value_tokens * CHUNK_BYTES

    @cached_property
    def value_parts(self) -> tuple[ValuePart, ...]:
        """One slot each."""
        firsts = range(0, self.tokens, self.value_tokens)
        return tuple(ValuePart(first, self.value_tokens, range(n, n + 1)) for n, first in enumerate(firsts))


def plan_of(config: MlaDecodeConfig) -> MemoryPlan:
    """The plan of a config's path."""
    tile = (WideTile if config.is_wide else NarrowTile)(config)
    stages = config.stages or (WIDE_STAGES if config.is_wide else NARROW_STAGES)[config.element_bytes]
    return MemoryPlan(SmemPlan(tile, TmemPlan(tile), *stages), WarpSchedule())
