"""The sole place that decides which keys a query row sees.

A request has `seq_len_q` query tokens and `seq_len_k` keys, its own tokens included. Row r of the flat packing is
query token r // num_heads ("fold-aware"). Causal masking is lower-right aligned for every pair of lengths: token t
sees key j iff j < clamp(seq_len_k - (seq_len_q - 1) + t, 0, seq_len_k). Dense: iff j < seq_len_k.

Decode context parallelism: a rank holds the keys of a KeyShard. Lengths and bounds are of all ranks' keys, `k_bound`
and everything behind it count this rank's keys.

Tree: the query tokens are the request's last keys ("drafts"). A token sees every key ahead of them, and of the drafts
those whose bits are set in its row of the tree mask.

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


def quotient(a: Any, b: Any) -> Any:
    """a // b of integers that are not negative. Unsigned: one shift or multiplication where b is known to the compiler,
    of which rounding towards minus infinity makes ten instructions.
    """
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return cutlass.Int32(cutlass.Uint32(a) // cutlass.Uint32(b))


def quotient_up(a: Any, b: Any) -> Any:
    """a / b, rounded up, of integers that are not negative."""
    return quotient(a + (b - 1), b)


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
class KeyShard:
    """The keys of decode context parallelism that one rank holds: key g iff g // interleave % world == rank. and
    `interleave` are compile-time facts.
    """

    world: int
    interleave: int
    rank: Any

    def local_keys(self, count: Any) -> Any:
        """How many of a request's first `count` keys this rank holds; they are its first ones, in the same order."""
        cycle = self.world * self.interleave
        whole = quotient(count, cycle)
        rest = count - whole * cycle - self.rank * self.interleave
        return whole * self.interleave + maximum(minimum(rest, self.interleave), 0)


@dataclass(frozen=True)
class CausalMask:
    """Visibility rule of one request. `num_heads` and `is_causal` are compile-time facts; `seq_len_q` is one too, or a
    traced value where every request has its own.
    """

    is_causal: bool
    num_heads: int
    seq_len_q: Any
    is_tree: bool = False
    shard: KeyShard | None = None

    @property
    def num_rows(self) -> Any:
        """Rows of the request: row = token * num_heads + head."""
        return self.seq_len_q * self.num_heads

    def query_token(self, row: Any) -> Any:
        """Query token of a row; rows past the last one (the empty part of a row tile) count as the last token."""
        return minimum(quotient(row, self.num_heads), self.seq_len_q - 1)

    def k_bound(self, row: Any, seq_len_k: Any) -> Any:
        """Number of keys that `row` sees: key j is visible iff j < k_bound. In [0, seq_len_k].

        Under a tree mask, the number of keys among which all are that it sees.
        """
        bound = seq_len_k
        if self.is_causal and not self.is_tree:
            bound = seq_len_k - (self.seq_len_q - 1) + self.query_token(row)
            bound = maximum(minimum(bound, seq_len_k), 0)
        return bound if self.shard is None else self.shard.local_keys(bound)

    def unmasked_bound(self, row: Any, seq_len_k: Any) -> Any:
        """Number of keys, from the first on, of which `row` and all later rows of the request see every one."""
        return maximum(self.first_draft(seq_len_k), 0) if self.is_tree else self.k_bound(row, seq_len_k)

    def first_draft(self, seq_len_k: Any) -> Any:
        """Position of query token 0 among the keys; negative where there are more query tokens than keys."""
        return seq_len_k - self.seq_len_q

    def mask_tile_count(self, tile_tokens: int) -> int:
        """Upper limit, over all lengths, of the tiles counted from the end that may straddle a bound."""
        if not self.is_causal:
            return 1
        return -(-(self.seq_len_q - 1) // tile_tokens) + 1

    def num_tiles(self, first_row: Any, tile_rows: int, tile_tokens: int, seq_len_k: Any) -> Any:
        """Key tiles that any of the rows [first_row, first_row + tile_rows) sees. Bounds grow with the row."""
        largest = self.k_bound(first_row + (tile_rows - 1), seq_len_k)
        return quotient_up(largest, tile_tokens)

    def phases(
        self, first_row: Any, tile_rows: int, tile_tokens: int, seq_len_k: Any, begin: Any, end: Any
    ) -> TilePhases:
        """The three phases of key tiles [begin, end), a part of the tiles that the row tile sees."""
        keys = self.k_bound(first_row + (tile_rows - 1), seq_len_k)
        unmasked = quotient(self.unmasked_bound(first_row, seq_len_k), tile_tokens)
        bulk_end = maximum(minimum(unmasked, end - 1), begin)
        return TilePhases(keys, begin, bulk_end, end, unmasked < end)


DRAFT_BITS = 32  # drafts to a word of the tree mask
WORD_BITS = 0xFFFFFFFF


def draft_window(word_of: Any, first: Any, seq_len_q: Any) -> Any:
    """32 bits: bit i is set iff a query token sees draft `first + i`. A negative draft is a key ahead of the drafts.

    word_of: word w of the token's row of the tree mask, 64 bits wide with the upper half 0, for any w >= 0 (what it
        is past the row's end does not matter). first: may be negative. seq_len_q: drafts of the request.
    """
    index, shift = first >> 5, first & (DRAFT_BITS - 1)
    low, high = word_or_ones(word_of, index), word_or_ones(word_of, index + 1)
    seen = ((low | (high << DRAFT_BITS)) >> shift) & WORD_BITS
    count = maximum(minimum(seq_len_q - first, DRAFT_BITS), 0)
    return seen & (type(seen)(WORD_BITS) >> (DRAFT_BITS - count))


def word_or_ones(word_of: Any, index: Any) -> Any:
    """word_of(index); all ones where index is negative."""
    word = word_of(maximum(index, 0))
    if isinstance(index, int):
        return word if index >= 0 else WORD_BITS
    return cutlass.select_(index >= 0, word, type(word)(WORD_BITS))
