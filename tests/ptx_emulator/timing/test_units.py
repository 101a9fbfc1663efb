"""Reservations of shared units: never more than there is, whatever the order of the requests."""

import random

import numpy as np
import pytest

from ptx_emulator.decode import Program
from ptx_emulator.timing import Constants, units
from ptx_emulator.timing import tables as tb

EMPTY = ".version 9.0\n.target sm_100a\n.address_size 64\n.visible .entry k()\n{\nret;\n}\n"


@pytest.fixture
def tables():
    kernel = Program.parse(EMPTY).kernel()
    made = tb.make_tables(kernel, Constants.of(), 1, 1, 4096, np.zeros((0, 3), np.int64), 0)
    tb.reset(made)
    return made


def test_requests_in_order_follow_each_other(tables):
    assert units.reserve(tables, 0, tb.PORT, 100.0, 50.0) == pytest.approx(150.0)
    assert units.reserve(tables, 0, tb.PORT, 100.0, 50.0) == pytest.approx(200.0, abs=tb.BUCKET)
    assert units.reserve(tables, 0, tb.PORT, 1000.0, 5.0) == pytest.approx(1005.0)


def test_an_earlier_request_takes_the_gap(tables):
    units.reserve(tables, 0, tb.PORT, 1000.0, 100.0)
    assert units.reserve(tables, 0, tb.PORT, 0.0, 100.0) == pytest.approx(100.0)


@pytest.mark.parametrize("seed", range(5))
def test_no_more_is_given_than_there_is(tables, seed):
    rng = random.Random(seed)
    requests = [(rng.uniform(0, 5000), rng.choice([1.0, 3.5, 40.0, 200.0])) for _ in range(300)]
    ends = [units.reserve(tables, 0, tb.PORT, start, cycles) for start, cycles in requests]
    assert all(end >= start + cycles - 1e-6 for end, (start, cycles) in zip(ends, requests, strict=True))
    given = tables.used[tb.PORT].sum()
    assert given == pytest.approx(sum(cycles for _, cycles in requests))
    assert tables.used[tb.PORT].max() <= tb.BUCKET + 1e-6
    assert max(ends) >= given


def test_units_are_apart(tables):
    units.reserve(tables, 0, tb.PORT, 0.0, 500.0)
    assert units.reserve(tables, 0, tb.LINK, 0.0, 10.0) == pytest.approx(10.0)


def test_hbm_gives_an_sm_its_share_in_the_long_run(tables):
    rate = 7.2e12 / 1.93e9 / 148
    end = 0.0
    for _ in range(100):
        end = units.from_hbm(tables, 0, 0.0, 8192.0)
    assert end == pytest.approx(100 * 8192 / rate, rel=0.02)
