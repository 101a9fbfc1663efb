"""The sole place that decides which keys a query row sees.

A request has `seq_len_q` query tokens and `seq_len_k` keys, its own tokens included. Row r of the flat packing is
query token r // num_heads ("fold-aware"). Causal masking is lower-right aligned for every pair of lengths: token t
sees key j iff j < clamp(seq_len_k - (seq_len_q - 1) + t, 0, seq_len_k). Dense: iff j < seq_len_k.

Decode context parallelism: a rank holds the keys of a KeyShard. Lengths and bounds are of all ranks' keys, `k_bound`
and everything behind it count this rank's keys.

Tree: the query tokens are the request's last keys ("drafts"). A token sees every key ahead of them, and of the drafts
those whose bits are set in its row of the tree mask.

Sliding window: token t sees no key before max(0, seq_len_k - seq_len_q - window_left + t), `window_left` keys before
its own position. Everything else as without.

Visible lengths: token t sees key j iff j < visible_lens[t], whatever the causal rule says. They need not ascend.

Every function takes Python integers (tests, host code) or traced Int32 values (kernels) alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.config import TREE_WORD_BITS


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
    """Key tiles [begin, end) of a work item, in loop order. All but the keys count tiles from the request's first.

    [begin, window_end):  may straddle the start of a row's window, and a bound too; masked. None without a window.
    [window_end, bulk_end): wholly within every row's window and below its bound; no mask code runs, but under a negative
                          scale (roles/softmax.py).
    [bulk_end, end - 1):  may straddle a bound; masked.
    end - 1:              the final tile, if it is none of the first phase; masked where final_straddles.
    first_key, keys:      the row tile reads keys [first_key, keys).
    whole_from, whole_to: every row sees keys [whole_from, whole_to), where that is not empty.
    """

    keys: Any
    begin: Any
    bulk_end: Any
    end: Any
    final_straddles: Any
    window_end: Any
    first_key: Any = 0
    whole_from: Any = 0
    whole_to: Any = 0

    @property
    def num_tiles(self) -> Any:
        return self.end - self.begin

    def keys_read(self, tile: Any, tile_tokens: int) -> tuple[Any, Any]:
        """(hidden, visible): of key tile `tile` the row tile reads keys [hidden, visible). Without a window `hidden` is
        the integer 0.
        """
        visible = minimum(self.keys - tile * tile_tokens, tile_tokens)
        if isinstance(self.first_key, int) and self.first_key == 0:
            return 0, visible
        return maximum(self.first_key - tile * tile_tokens, 0), visible

    @property
    def num_unmasked(self) -> int:
        """Tiles without mask code, of phases in Python integers."""
        return (self.bulk_end if self.final_straddles else self.end) - self.window_end


@dataclass(frozen=True)
class KeyShard:
    """The keys of decode context parallelism that one rank holds: key g iff g // interleave % world == rank. `world`
    and `interleave` are compile-time facts.
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
class SeenKeys:
    """The keys that the rows of a row tile see: none outside [first, end), all of them all of [whole_from, whole_to)
    where that is not empty.

    Without a window `first` and `whole_from` are the integer 0.
    """

    end: Any
    whole_to: Any
    first: Any = 0
    whole_from: Any = 0

    def num_tiles(self, tile_tokens: int) -> Any:
        """Key tiles that any of the rows sees."""
        return quotient_up(self.end, tile_tokens) - quotient(self.first, tile_tokens)

    def phases(self, tile_tokens: int, begin: Any, end: Any) -> TilePhases:
        """The phases of key tiles [begin, end), a part of those that any of the rows sees, which are counted from the
        first of these on. Where there are none, `end` may be 1.
        """
        first_tile = quotient(self.first, tile_tokens)
        end = minimum(end + first_tile, quotient_up(self.end, tile_tokens))
        begin = begin + first_tile
        whole_tiles = quotient(self.whole_to, tile_tokens)
        window_end = begin
        if not isinstance(self.first, int) or self.whole_from:
            window_end = maximum(minimum(quotient_up(self.whole_from, tile_tokens), end), begin)
        bulk_end = maximum(minimum(whole_tiles, end - 1), window_end)
        return TilePhases(
            self.end, begin, bulk_end, end, whole_tiles < end, window_end, self.first, self.whole_from, self.whole_to
        )


@dataclass(frozen=True)
class CausalMask:
    """Visibility rule of one request. `num_heads` and `is_causal` are compile-time facts; `seq_len_q` is one too, or a
    traced value where every request has its own.

    window_left: keys before a token's own position that it sees; None without a window.
    visible_lens: keys that token t sees, at index t; None where no such lengths are given.
    """

    is_causal: bool
    num_heads: int
    seq_len_q: Any
    is_tree: bool = False
    shard: KeyShard | None = None
    window_left: Any = None
    visible_lens: Any = None

    @property
    def num_rows(self) -> Any:
        """Rows of the request: row = token * num_heads + head."""
        return self.seq_len_q * self.num_heads

    def query_token(self, row: Any) -> Any:
        """Query token of a row; rows past the last one (the empty part of a row tile) count as the last token."""
        return minimum(quotient(row, self.num_heads), self.seq_len_q - 1)

    def k_bound(self, row: Any, seq_len_k: Any) -> Any:
        """Number of keys that `row` sees: key j is visible iff j < k_bound. In [0, seq_len_k].

        Under a tree mask, the number of keys among which all are that it sees. A window hides keys below it.
        """
        if self.visible_lens is not None:
            return clamped(self.visible_lens[self.query_token(row)], seq_len_k)
        bound = seq_len_k
        if self.is_causal and not self.is_tree:
            bound = seq_len_k - (self.seq_len_q - 1) + self.query_token(row)
            bound = maximum(minimum(bound, seq_len_k), 0)
        return bound if self.shard is None else self.shard.local_keys(bound)

    def window_start(self, row: Any, seq_len_k: Any) -> Any:
        """The first key that the window of `row` holds; the integer 0 without a window.

        Grows with the row, and is below k_bound(row) unless both are 0 or, of a shard, equal.
        """
        if self.window_left is None:
            return 0
        # In this order no window is too long for 32 bits.
        newest = maximum(seq_len_k - self.window_left, 0)
        start = maximum(newest - (self.seq_len_q - self.query_token(row)), 0)
        return start if self.shard is None else self.shard.local_keys(start)

    def unmasked_bound(self, row: Any, seq_len_k: Any) -> Any:
        """Number of keys, from the first on, of which `row` and all later rows of the request see every one, but for
        those that a window hides. Not under visible lengths, which need not ascend.
        """
        return maximum(self.first_draft(seq_len_k), 0) if self.is_tree else self.k_bound(row, seq_len_k)

    def first_draft(self, seq_len_k: Any) -> Any:
        """Position of query token 0 among the keys; negative where there are more query tokens than keys."""
        return seq_len_k - self.seq_len_q

    def mask_tile_count(self, tile_tokens: int) -> int:
        """Upper limit, over all lengths, of the tiles counted from the end that may straddle a bound."""
        if not self.is_causal:
            return 1
        return -(-(self.seq_len_q - 1) // tile_tokens) + 1

    def seen_keys(self, first_row: Any, tile_rows: int, seq_len_k: Any) -> SeenKeys:
        """What rows [first_row, first_row + tile_rows) see. But for visible lengths, all bounds grow with the row."""
        last_row = first_row + (tile_rows - 1)
        if self.visible_lens is not None:
            tokens = quotient(first_row, self.num_heads), self.query_token(last_row) + 1
            smallest, largest = extremes(self.visible_lens, *tokens, seq_len_k)
            return SeenKeys(largest, smallest)
        return SeenKeys(
            self.k_bound(last_row, seq_len_k),
            self.unmasked_bound(first_row, seq_len_k),
            self.window_start(first_row, seq_len_k),
            self.window_start(last_row, seq_len_k),
        )


def clamped(length: Any, seq_len_k: Any) -> Any:
    """A visible length as it counts: whatever the caller's tensor holds, in [0, seq_len_k]."""
    return maximum(minimum(length, seq_len_k), 0)


def extremes(visible_lens: Any, begin: Any, end: Any, seq_len_k: Any) -> tuple[Any, Any]:
    """(smallest, largest) visible length of query tokens [begin, end); (seq_len_k, 0) where there are none."""
    if isinstance(seq_len_k, int):
        lengths = [clamped(visible_lens[token], seq_len_k) for token in range(begin, end)]
        return min(lengths, default=seq_len_k), max(lengths, default=0)
    return traced_extremes(visible_lens, begin, end, seq_len_k)


@cute.jit
def traced_extremes(visible_lens: cutlass.Constexpr, begin: Int32, end: Int32, seq_len_k: Int32):
    """`extremes` in a kernel. No token outside [begin, end) is read: of a ragged query there may be none behind it."""
    smallest, largest = seq_len_k, Int32(0)
    for token in cutlass.range(begin, end, unroll=4):
        length = clamped(visible_lens[token], seq_len_k)
        smallest, largest = minimum(smallest, length), maximum(largest, length)
    return smallest, largest


WORD_BITS = 0xFFFFFFFF


def draft_window(word_of: Any, first: Any, seq_len_q: Any) -> Any:
    """32 bits: bit i is set iff a query token sees draft `first + i`. A negative draft is a key ahead of the drafts.

    word_of: word w of the token's row of the tree mask, 64 bits wide with the upper half 0, for any w >= 0 (what it
        is past the row's end does not matter). first: may be negative. seq_len_q: drafts of the request.
    """
    index, shift = first >> 5, first & (TREE_WORD_BITS - 1)
    low, high = word_or_ones(word_of, index), word_or_ones(word_of, index + 1)
    seen = ((low | (high << TREE_WORD_BITS)) >> shift) & WORD_BITS
    count = maximum(minimum(seq_len_q - first, TREE_WORD_BITS), 0)
    return seen & (type(seen)(WORD_BITS) >> (TREE_WORD_BITS - count))


def word_or_ones(word_of: Any, index: Any) -> Any:
    """word_of(index); all ones where index is negative."""
    word = word_of(maximum(index, 0))
    if isinstance(index, int):
        return word if index >= 0 else WORD_BITS
    return cutlass.select_(index >= 0, word, type(word)(WORD_BITS))
