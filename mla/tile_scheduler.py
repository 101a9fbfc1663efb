"""Work items: which part of which row tile a CTA computes, and which key tiles that part reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mla import split_kv
from mla.causal_mask import CausalMask, KeyShard, SeenKeys, TilePhases, quotient_up
from mla.config import UNCUT_TILES, MlaDecodeConfig


@dataclass(frozen=True)
class TileScheduler:
    """Row tiles of a request, and the line of work that split_kv.py cuts into ranges.

    The row tiles of a request are neighbours in the line, so that they run at about the same time and share keys in L2.
    """

    tile_rows: int
    tile_tokens: int
    mask: CausalMask
    gap: int = 0  # positions of the line in front of every row tile (split_kv.switch_cost)
    uncut_tiles: int = UNCUT_TILES  # of the config

    @classmethod
    def of(cls, config: MlaDecodeConfig, tile_rows: int, tile_tokens: int) -> TileScheduler:
        """The scheduler of rank 0, without what a launch brings: a window, visible lengths."""
        shard = KeyShard(config.dcp_world, config.dcp_interleave, 0) if config.dcp_world > 1 else None
        mask = CausalMask(config.is_causal, config.num_heads, config.seq_len_q, config.tree_mask, shard)
        gap = split_kv.switch_cost(config.is_wide, config.element_bytes)
        return cls(tile_rows, tile_tokens, mask, gap, config.uncut_tiles)

    def of_rank(self, dcp_rank: Any) -> TileScheduler:
        """The scheduler of a rank of decode context parallelism; without that, the same whatever the rank."""
        if self.mask.shard is None:
            return self
        return replace(self, mask=replace(self.mask, shard=replace(self.mask.shard, rank=dcp_rank)))

    def of_window(self, window_left: Any) -> TileScheduler:
        """The scheduler of a launch with this sliding window, or with None."""
        return replace(self, mask=replace(self.mask, window_left=window_left))

    def of_request(self, seq_len_q: Any, visible_lens: Any = None) -> TileScheduler:
        """The scheduler of a request with `seq_len_q` query tokens, of these visible lengths where they are given."""
        return replace(self, mask=replace(self.mask, seq_len_q=seq_len_q, visible_lens=visible_lens))

    @property
    def row_tiles(self) -> Any:
        """Row tiles of a request."""
        return quotient_up(self.mask.num_rows, self.tile_rows)

    def cost(self, row_tile: Any, seq_len_k: Any) -> Any:
        """Positions of a row tile in the line; its key tiles lie behind the first `gap` of them."""
        num_tiles = self.seen_keys(row_tile, seq_len_k).num_tiles(self.tile_tokens)
        return self.gap + split_kv.item_cost(num_tiles)

    def request_cost(self, seq_len_k: Any) -> Any:
        """Positions of all row tiles of a request, whose number of query tokens must be a Python integer."""
        total = self.cost(0, seq_len_k)
        for row_tile in range(1, self.row_tiles):
            total = total + self.cost(row_tile, seq_len_k)
        return total

    def seen_keys(self, row_tile: Any, seq_len_k: Any) -> SeenKeys:
        """What the rows of a row tile see."""
        return self.mask.seen_keys(row_tile * self.tile_rows, self.tile_rows, seq_len_k)

    def phases(self, seen: SeenKeys, begin: Any, end: Any) -> TilePhases:
        """The key tiles at [begin, end) of a row tile's positions behind the gap; an empty row tile, whose one position
        is no tile, has none. seen: what its rows see.
        """
        return seen.phases(self.tile_tokens, begin, end)
