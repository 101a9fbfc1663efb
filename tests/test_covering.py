"""The covering array is one, and small."""

from __future__ import annotations

import itertools

import pytest

from tests.covering import covering_rows

AXES = ((1, 3, 16), "abcd", (True, False), ("x", "y"))


@pytest.mark.parametrize("first", [(), ((3, "b", False, "x"), (16, "a", False, "x"))])
def test_every_pair_of_values_meets(first):
    rows = covering_rows(AXES, first)
    assert tuple(rows[: len(first)]) == first and rows == covering_rows(AXES, first)
    for (i, left), (j, right) in itertools.combinations(enumerate(AXES), 2):
        for a, b in itertools.product(left, right):
            assert any(row[i] == a and row[j] == b for row in rows), (a, b)
    # The two longest axes need 12 rows; the whole grid has 48.
    assert 12 <= len(rows) <= 14 and len(set(rows)) == len(rows)


def test_no_rows_are_added_to_those_that_cover():
    grid = list(itertools.product("ab", "cd"))
    assert covering_rows(("ab", "cd"), grid) == grid


def test_a_row_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"first=\('a', 'e'\): must be a row of the grid"):
        covering_rows(("ab", "cd"), [("a", "e")])
