"""Work items: which part of which row tile a CTA computes, and which key tiles that part reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mla import split_kv
from mla.causal_mask import CausalMask, KeyShard, TilePhases, quotient_up
from mla.config import MlaDecodeConfig


@dataclass(frozen=True)
class TileScheduler:
    """Row tiles of a request, and the line of work that split_kv.py cuts into shares.

    The row tiles of a request are neighbours in the line, so that they run at about the same time and share keys in L2.
    """

    tile_rows: int
    tile_tokens: int
    mask: CausalMask
    gap: int = 0  # positions of the line in front of every row tile (split_kv.switch_cost)

    @classmethod
    def of(cls, config: MlaDecodeConfig, tile_rows: int, tile_tokens: int) -> TileScheduler:
        """The scheduler of rank 0."""
        shard = KeyShard(config.dcp_world, config.dcp_interleave, 0) if config.dcp_world > 1 else None
        mask = CausalMask(config.is_causal, config.num_heads, config.seq_len_q, config.tree_mask, shard)
        return cls(tile_rows, tile_tokens, mask, split_kv.switch_cost(config.is_wide, config.element_bytes))

    def of_rank(self, dcp_rank: Any) -> TileScheduler:
        """The scheduler of a rank of decode context parallelism; without that, the same whatever the rank."""
        if self.mask.shard is None:
            return self
        return replace(self, mask=replace(self.mask, shard=replace(self.mask.shard, rank=dcp_rank)))

    def of_request(self, seq_len_q: Any) -> TileScheduler:
        """The scheduler of a request with `seq_len_q` query tokens."""
        return replace(self, mask=replace(self.mask, seq_len_q=seq_len_q))

    @property
    def row_tiles(self) -> Any:
        """Row tiles of a request."""
        return quotient_up(self.mask.num_rows, self.tile_rows)

    def cost(self, row_tile: Any, seq_len_k: Any) -> Any:
        """Positions of a row tile in the line; its key tiles lie behind the first `gap` of them."""
        num_tiles = self.mask.num_tiles(row_tile * self.tile_rows, self.tile_rows, self.tile_tokens, seq_len_k)
        return self.gap + split_kv.item_cost(num_tiles)

    def request_cost(self, seq_len_k: Any) -> Any:
        """Positions of all row tiles of a request, whose number of query tokens must be a Python integer."""
        total = self.cost(0, seq_len_k)
        for row_tile in range(1, self.row_tiles):
            total = total + self.cost(row_tile, seq_len_k)
        return total

    def phases(self, row_tile: Any, seq_len_k: Any, begin: Any, end: Any) -> TilePhases:
        """Key tiles [begin, end) of a row tile; an empty row tile, whose one position is no tile, has none."""
        first_row = row_tile * self.tile_rows
        shape = (self.tile_rows, self.tile_tokens)
        end = split_kv.minimum(end, self.mask.num_tiles(first_row, *shape, seq_len_k))
        return self.mask.phases(first_row, *shape, seq_len_k, begin, end)
