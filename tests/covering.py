"""Covering arrays: few rows of a grid in which every value of an axis meets every value of every other axis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

Row = tuple[Any, ...]
Meeting = tuple[tuple[int, Any], ...]  # (axis, value) of each of the values that meet


def meetings(row: Row, strength: int = 2) -> set[Meeting]:
    """The sets of `strength` values of different axes that meet in a row."""
    return set(itertools.combinations(enumerate(row), strength))


def covering_rows(
    axes: Sequence[Iterable[Any]],
    first: Sequence[Row] = (),
    derived: Callable[[Row], Any] | None = None,
    apart: Collection[int] = (),
) -> list[Row]:
    """Rows of the grid of `axes`, beginning with `first`, in which all pairs of values of two axes meet.

    derived: a value that follows from a row, one axis more whose values must meet those of the others, where the grid
    has such rows. apart: axes, by number, the derived one being the last, whose values need not meet each other's.
    Greedy, and the same whenever it is called: each row is the one with most new pairs, of these the one with most new
    triples, of these the first one of the grid.
    """

    def pairs_of(row: Row) -> set[Meeting]:
        found = meetings((*row, derived(row)) if derived else row)
        return {((a, left), (b, right)) for (a, left), (b, right) in found if a not in apart or b not in apart}

    grid = {row: (pairs_of(row), meetings(row, 3)) for row in itertools.product(*axes)}
    for row in first:
        if row not in grid:
            raise ValueError(f"first={row}: must be a row of the grid of {axes}")
    rows = list(first)
    pairs, triples = (set().union(*(of_row[kind] for of_row in grid.values())) for kind in (0, 1))
    for row in rows:
        pairs, triples = pairs - grid[row][0], triples - grid[row][1]
    while pairs:
        row = max(grid, key=lambda row: (len(grid[row][0] & pairs), len(grid[row][1] & triples)))
        rows.append(row)
        pairs, triples = pairs - grid[row][0], triples - grid[row][1]
    return rows
