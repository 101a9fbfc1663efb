"""Columns of Tensor Memory: O, the ring of S, Q where it is kept there.

Accumulators fold N over the lane halves: 64 rows x N fp32 take 128 lanes x N / 2 columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from mla.config import FLOAT_BYTES
from mla.plan.tile import CHUNK_BYTES, OUTPUT_N, TilePlan

COLUMN_BYTES = FLOAT_BYTES


@dataclass(frozen=True)
class TmemPlan:
    """score_stages: buffers of S."""

    tile: TilePlan
    score_stages: int = 2

    @property
    def output_column(self) -> int:
        return 0

    @property
    def output_columns(self) -> int:
        return self.tile.config.kv_lora_rank // 2

    @property
    def half_columns(self) -> int:
        """Columns of one of the parts of O (`TilePlan.output_halves`)."""
        return OUTPUT_N // 2

    @property
    def score_columns(self) -> int:
        """Columns of one S tile."""
        return self.tile.tokens // 2

    @property
    def score_column(self) -> int:
        return self.output_column + self.output_columns

    @property
    def query_column(self) -> int:
        return self.score_column + self.score_stages * self.score_columns

    @property
    def query_spans(self) -> int:
        """Leading spans of Q that Q*K reads from TMEM instead of shared memory: as many as the TMEM of a pair has left,
        all latent dimensions of fp8, half of those of bf16 and fp16. For narrow bf16 there are two more, which would
        take a slot of the ring of keys at each work item and give none.
        """
        return 4

    @property
    def span_columns(self) -> int:
        """Columns of one span of Q; an A operand in TMEM is stored in both lane halves."""
        return CHUNK_BYTES // COLUMN_BYTES

    @property
    def columns_used(self) -> int:
        return self.query_column + self.query_spans * self.span_columns
