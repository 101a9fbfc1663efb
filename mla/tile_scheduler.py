"""Work units: which (request, row tile) a CTA computes, and which key tiles that unit reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mla.causal_mask import CausalMask, TilePhases
from mla.config import MlaDecodeConfig


@dataclass(frozen=True)
class WorkUnit:
    """One row tile of one request.

    batch:     request index.
    first_row: first row of the tile, a multiple of tile_rows, in the request's flat (token, head) packing.
    phases:    the key tiles to visit.
    """

    batch: Any
    first_row: Any
    phases: TilePhases


@dataclass(frozen=True)
class TileScheduler:
    """One CTA per work unit, on a one-dimensional grid (x reaches 2^31 - 1, y and z only 65535).

    The row tiles of a request are neighbours in the grid, so that they run together and share its keys in L2.
    """

    tile_rows: int
    tile_tokens: int
    row_tiles: int
    mask: CausalMask

    @classmethod
    def of(cls, config: MlaDecodeConfig, tile_rows: int, tile_tokens: int) -> TileScheduler:
        mask = CausalMask(config.is_causal, config.num_heads, config.seq_len_q)
        return cls(tile_rows, tile_tokens, -(-config.num_rows // tile_rows), mask)

    def num_units(self, batch_size: Any) -> Any:
        return batch_size * self.row_tiles

    def batch_of(self, unit: Any) -> Any:
        return unit // self.row_tiles

    def work_unit(self, unit: Any, seq_len_k: Any) -> WorkUnit:
        first_row = (unit % self.row_tiles) * self.tile_rows
        phases = self.mask.phases(first_row, self.tile_rows, self.tile_tokens, seq_len_k)
        return WorkUnit(self.batch_of(unit), first_row, phases)
