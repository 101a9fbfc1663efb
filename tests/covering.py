"""Covering arrays: few rows of a grid in which every value of an axis meets every value of every other axis."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

Row = tuple[Any, ...]
Meeting = tuple[tuple[int, Any], ...]  # (axis, value) of each of the values that meet


def meetings(row: Row, strength: int = 2) -> set[Meeting]:
    """The sets of `strength` values of different axes that meet in a row."""
    return set(itertools.combinations(enumerate(row), strength))


def covering_rows(axes: Sequence[Iterable[Any]], first: Sequence[Row] = ()) -> list[Row]:
    """Rows of the grid of `axes`, beginning with `first`, in which all pairs of values of two axes meet.

    Greedy, and the same whenever it is called: each row is the one with most new pairs, of these the one with most new
    triples, of these the first one of the grid.
    """
    grid = {row: (meetings(row, 2), meetings(row, 3)) for row in itertools.product(*axes)}
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
