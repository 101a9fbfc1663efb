"""The sole place that decides which keys a query row sees.

A request has `seq_len_q` query tokens and `seq_len_k` keys, its own tokens included. Row r of the flat packing is
query token r // num_heads ("fold-aware"). Causal masking is lower-right aligned for every pair of lengths: token t
sees key j iff j < clamp(seq_len_k - (seq_len_q - 1) + t, 0, seq_len_k). Dense: iff j < seq_len_k.

Every function takes Python integers (tests, host code) or traced Int32 values (kernels) alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass


def minimum(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else cutlass.min(a, b)


def maximum(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else cutlass.max(a, b)


@dataclass(frozen=True)
class TilePhases:
    """Key tiles [begin, end) of a work item, in loop order. All but `keys` count tiles from the request's first.

    [begin, bulk_end):    wholly below every row's bound; no mask code runs.
    [bulk_end, end - 1):  may straddle a bound; masked.
    end - 1:              the final tile; masked iff final_straddles.
    keys:                 keys the row tile reads in all, the largest bound of its rows.
    """

    keys: Any
    begin: Any
    bulk_end: Any
    end: Any
    final_straddles: Any

    @property
    def num_tiles(self) -> Any:
        return self.end - self.begin


@dataclass(frozen=True)
class CausalMask:
    """Visibility rule of one request. `num_heads` and `is_causal` are compile-time facts; `seq_len_q` is one too, or a
    traced value where every request has its own.
    """

    is_causal: bool
    num_heads: int
    seq_len_q: Any

    @property
    def num_rows(self) -> Any:
        """Rows of the request: row = token * num_heads + head."""
        return self.seq_len_q * self.num_heads

    def query_token(self, row: Any) -> Any:
        """Query token of a row; rows past the last one (the empty part of a row tile) count as the last token."""
        return minimum(row // self.num_heads, self.seq_len_q - 1)

    def k_bound(self, row: Any, seq_len_k: Any) -> Any:
        """Number of keys that `row` sees: key j is visible iff j < k_bound. In [0, seq_len_k]."""
        if not self.is_causal:
            return seq_len_k
        bound = seq_len_k - (self.seq_len_q - 1) + self.query_token(row)
        return maximum(minimum(bound, seq_len_k), 0)

    def mask_tile_count(self, tile_tokens: int) -> int:
        """Upper limit, over all lengths, of the tiles counted from the end that may straddle a bound."""
        if not self.is_causal:
            return 1
        return -(-(self.seq_len_q - 1) // tile_tokens) + 1

    def num_tiles(self, first_row: Any, tile_rows: int, tile_tokens: int, seq_len_k: Any) -> Any:
        """Key tiles that any of the rows [first_row, first_row + tile_rows) sees. Bounds grow with the row."""
        largest = self.k_bound(first_row + (tile_rows - 1), seq_len_k)
        return (largest + (tile_tokens - 1)) // tile_tokens

    def phases(
        self, first_row: Any, tile_rows: int, tile_tokens: int, seq_len_k: Any, begin: Any, end: Any
    ) -> TilePhases:
        """The three phases of key tiles [begin, end), a part of the tiles that the row tile sees."""
        keys = self.k_bound(first_row + (tile_rows - 1), seq_len_k)
        unmasked = self.k_bound(first_row, seq_len_k) // tile_tokens
        bulk_end = maximum(minimum(unmasked, end - 1), begin)
        return TilePhases(keys, begin, bulk_end, end, unmasked < end)
