"""Split-KV: how the key tiles of a whole batch are cut into equal contiguous ranges, one per unit (stream-K).

All row tiles of all requests stand in one line, each as long as it has key tiles (an empty one counts as one, so that
somebody writes its zeros), behind a gap as long as it takes a unit to go from one row tile to the next. A unit is a CTA,
or a pair of CTAs on the wide path. Ranges differ by one position at most. Where there are fewer positions than units, or
row tiles too short to be worth a cut, there are fewer ranges, and the last units stay idle. The cut depends on
`seq_lens` as they are on the device, so one launch, one workspace and one captured CUDA graph serve any lengths.

Functions take Python integers (tests, host code) or traced Int32 values (kernels) alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mla.causal_mask import maximum, minimum, quotient
from mla.config import FLOAT_BYTES, INT_BYTES, UNCUT_TILES

SLOTS_PER_UNIT = 2
CUT_INTS = 8  # fields of a Cut, and padding to 16 bytes


def item_cost(num_tiles: Any) -> Any:
    """Positions that a row tile's key tiles take in the line."""
    return maximum(num_tiles, 1)


def switch_cost(is_wide: bool, element_bytes: int) -> int:
    """What it costs a unit to go from one row tile to the next, in key tiles: so many positions of the line stand in
    front of every row tile, and a unit whose range holds them has fewer keys to read.

    Modelled (python -m bench.predict), one row tile of 8 key tiles against two of 4 for every unit: 0.2 tiles on the
    narrow path in fp8 and 0.9 in bf16, 2.2 on the wide path in fp8 and 2.1 in bf16.
    """
    return 2 if is_wide else element_bytes - 1


@dataclass(frozen=True)
class Partition:
    """A line of `total` positions in `num` ranges of `size` positions, the first `longer` of them one longer."""

    num: Any
    size: Any
    longer: Any

    @classmethod
    def of(cls, total: Any, num_units: Any, row_tiles: Any, gap: int, uncut_tiles: int = UNCUT_TILES) -> Partition:
        """The cut of a line of `row_tiles` row tiles, each behind `gap` positions without keys.

        Where row tiles have at most `uncut_tiles` key tiles on average, there are no more ranges than row tiles: a
        partial result and its merge cost more than the key tiles that a cut saves. Longer ones are cut down to single
        key tiles.
        """
        is_long = minimum(maximum(total - row_tiles * (uncut_tiles + gap), 0), 1)
        most = row_tiles + (total - row_tiles) * is_long
        num = maximum(minimum(most, num_units), 1)
        size = maximum(quotient(total, num), 1)
        return cls(num, size, maximum(total - size * num, 0))

    def begin(self, unit: Any) -> Any:
        """First position of a unit's range, which ends where the next one's begins; idle units begin at the end."""
        return minimum(unit, self.num) * self.size + minimum(unit, self.longer)

    def unit_of(self, position: Any) -> Any:
        """The unit whose range holds a position: the first term counts among the longer ranges, the second among the
        others, and each is too small where the other holds.
        """
        longer = quotient(position, self.size + 1)
        return maximum(longer, quotient(maximum(position - self.longer, 0), self.size))

    def units_of(self, first: Any, cost: Any) -> tuple[Any, Any]:
        """(the first unit with a part of positions [first, first + cost), how many have one)."""
        first_unit = self.unit_of(first)
        return first_unit, self.unit_of(first + cost - 1) - first_unit + 1


@dataclass(frozen=True)
class Split:
    """Positions [begin, end) of a row tile, relative to its first, that one unit takes; begin >= end is nothing."""

    begin: Any
    end: Any


def take(first: Any, cost: Any, range_begin: Any, range_end: Any) -> Split:
    """The part of a row tile at positions [first, first + cost) of the line that lies in [range_begin, range_end)."""
    return Split(maximum(range_begin - first, 0), minimum(range_end - first, cost))


@dataclass(frozen=True)
class Cut:
    """Where a unit's range begins within a row tile, as the unit tells the merge. Elsewhere all are 0.

    batch, row_tile: whose tile. query_begin: its request's first token in a ragged query. rows: of the tile.
    first_unit: the unit of the tile's first part. parts: how many units, all neighbours, have one.
    """

    batch: Any
    row_tile: Any
    query_begin: Any
    rows: Any
    first_unit: Any
    parts: Any

    def slot(self, part: Any) -> Any:
        """Partial result of a part: of the first one, of the tile that its unit starts and does not finish."""
        return partial_slot(self.first_unit + part, part)

    def later_slot(self, part: Any) -> Any:
        """The same for any part but the first."""
        return (self.first_unit + part) * SLOTS_PER_UNIT


def partial_slot(unit: Any, begin: Any) -> Any:
    """Partial result of a unit's part of a row tile. A contiguous range has at most two: the tile it enters in the
    middle (even slot) and the tile it starts but does not finish (odd slot).
    """
    return unit * SLOTS_PER_UNIT + 1 - minimum(begin, 1)


def num_slots(num_units: Any) -> Any:
    return num_units * SLOTS_PER_UNIT


def cuts_offset(num_units: Any, tile_rows: int, latent_dim: int, partial_bytes: int) -> Any:
    """Byte offset of the cuts in the workspace: behind partial outputs of `partial_bytes` an element, and fp32
    log-sum-exps.
    """
    return num_slots(num_units) * (tile_rows * (latent_dim * partial_bytes + FLOAT_BYTES))


def workspace_bytes(num_units: int, tile_rows: int, latent_dim: int) -> int:
    """What a launch needs at most, whatever the dtype. Any content will do; it needs no zeroing."""
    return cuts_offset(num_units, tile_rows, latent_dim, FLOAT_BYTES) + num_units * CUT_INTS * INT_BYTES
