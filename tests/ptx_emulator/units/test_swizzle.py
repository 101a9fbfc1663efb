"""Swizzles against the tables of PTX ISA 5.5.7."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.units.swizzle import NO_SWIZZLE, SWIZZLE_32B, SWIZZLE_64B, SWIZZLE_128B, SWIZZLE_128B_ATOM_32B

from ..models import swizzled

SWIZZLES = {"32B": SWIZZLE_32B, "64B": SWIZZLE_64B, "128B": SWIZZLE_128B, "128B_atom_32B": SWIZZLE_128B_ATOM_32B}


@pytest.mark.parametrize("name", SWIZZLES)
def test_swizzle_tables_of_the_isa(name):
    for address in range(0, 4096, 16):
        assert SWIZZLES[name].apply(address) == swizzled(address, name)


@pytest.mark.parametrize("name", SWIZZLES)
def test_swizzles_arrays_and_undoes_itself(name):
    addresses = np.arange(0, 4096, 4)
    swizzle = SWIZZLES[name]
    once = swizzle.apply(addresses)
    assert (once != addresses).any() and once[1] == swizzle.apply(4)
    np.testing.assert_array_equal(swizzle.apply(once), addresses)
    assert (swizzle.apply(addresses + swizzle.period) == once + swizzle.period).all()


def test_no_swizzle():
    assert all(NO_SWIZZLE.apply(address) == address for address in range(0, 2048, 16))
