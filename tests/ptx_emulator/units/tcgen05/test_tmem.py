"""Allocation of Tensor Memory and the checks of accesses (PTX ISA 9.7.16.1, 9.7.16.7)."""

from __future__ import annotations

import pytest

from ptx_emulator.errors import TmemError
from ptx_emulator.units.tcgen05.tmem import POISON, TensorMemory, split_address


def test_first_fit_and_reuse():
    tmem = TensorMemory(0)
    for columns, first in ((256, 0), (128, 256), (64, 384), (64, 448)):
        assert tmem.find(columns) == first
        tmem.allocate(first, columns)
    assert tmem.find(32) is None
    tmem.words[:, 256:384] = 1
    tmem.free(256, 128, {})
    assert tmem.find(64) == 256 and tmem.find(256) is None
    assert (tmem.words[:, 256:384] == POISON).all()


def test_columns_must_be_allocated():
    tmem = TensorMemory(1)
    tmem.allocate(64, 64)
    tmem.check_columns(64, 64, {})
    tmem.check_columns(127, 1, {})
    for column, columns in ((63, 2), (127, 2), (0, 1), (511, 2)):
        with pytest.raises(TmemError, match="of CTA 1: allocated are 64 to 127"):
            tmem.check_columns(column, columns, {})


@pytest.mark.parametrize("columns", [0, 16, 33, 96, 1024])
def test_sizes_are_powers_of_two(columns):
    with pytest.raises(TmemError, match="power of two"):
        TensorMemory(0).check_request(columns, {})


def test_errors_name_the_instruction():
    with pytest.raises(TmemError) as caught:
        TensorMemory(0).free(0, 32, {"line": 7, "text": "tcgen05.dealloc"})
    assert caught.value.line == 7 and "tcgen05.dealloc" in str(caught.value)


def test_addresses():
    assert split_address(0x00600123) == (96, 0x123)
