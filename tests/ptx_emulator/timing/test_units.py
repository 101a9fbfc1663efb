"""Reservations of shared units: never more than there is, whatever the order of the requests."""

import random

import numpy as np
import pytest

from ptx_emulator.front.decode import Program
from ptx_emulator.timing import Constants, costs, units
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


def test_a_rate_leaves_the_rest_of_a_unit_to_others(tables):
    assert units.reserve(tables, 0, tb.PORT, 96.0, 50.0, 0.5) == pytest.approx(196.0)
    assert units.reserve(tables, 0, tb.PORT, 96.0, 50.0) == pytest.approx(196.0)
    assert units.reserve(tables, 0, tb.PORT, 96.0, 50.0) == pytest.approx(246.0, abs=tb.BUCKET)


def test_a_load_writes_shared_memory_no_faster_than_the_link_brings_it(tables):
    end = units.deliver(tables, 0, 0.0, 8192, 0.0, 0.0)
    share = tables.constants[units.K_L2] / tables.constants[units.K_PORT]
    assert share < 1
    assert tables.used[tb.PORT].max() <= tb.BUCKET * share + 1e-6
    assert tables.used[tb.PORT].sum() == pytest.approx(8192 / tables.constants[units.K_PORT])
    # An operand of the tensor core finds the rest of the port free meanwhile.
    assert units.reserve(tables, 0, tb.PORT, end - 100.0, 40.0) <= end + tb.BUCKET


def test_hbm_gives_an_sm_its_share_in_the_long_run(tables):
    rate = 7.2e12 / 1.93e9 / 148
    end = 0.0
    for _ in range(100):
        end = units.from_hbm(tables, 0, 0.0, 8192.0)
    assert end == pytest.approx(100 * 8192 / rate, rel=0.02)


def test_the_l1_cache_holds_sectors_until_other_lines_push_them_out(tables):
    pointers, one_lane = np.full(32, 1 << 20, np.int64), 1
    assert units.in_l1(tables, 0, pointers, one_lane, 16, 0.0) == -1
    units.take_into_l1(tables, 0, pointers, one_lane, 16, 0.0, 700.0)
    assert units.in_l1(tables, 0, pointers, one_lane, 16, 10.0) == 700.0  # on its way
    assert units.in_l1(tables, 0, pointers + 32, one_lane, 4, 10.0) == -1  # another sector of the line
    assert units.in_l1(tables, 0, pointers + 30, one_lane, 4, 10.0) == -1  # half of it
    same_set = 128 * tb.L1_SETS
    for way in range(1, tb.L1_WAYS):
        units.take_into_l1(tables, 0, pointers + way * same_set, one_lane, 4, 20.0 + way, 800.0)
    assert units.in_l1(tables, 0, pointers, one_lane, 16, 30.0) == 700.0
    units.take_into_l1(tables, 0, pointers + tb.L1_WAYS * same_set, one_lane, 4, 40.0, 900.0)
    assert units.in_l1(tables, 0, pointers + same_set, one_lane, 4, 50.0) == -1  # the one used longest ago
    assert units.in_l1(tables, 0, pointers, one_lane, 16, 50.0) == 700.0
    units.drop_l1(tables, 0)
    assert units.in_l1(tables, 0, pointers, one_lane, 16, 60.0) == -1


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        ("ld.global.b32 %r1, [%rd1];", costs.L1_CACHED),
        ("ld.global.nc.b32 %r1, [%rd1];", costs.L1_CACHED),
        ("ld.global.cg.b32 %r1, [%rd1];", costs.L1_PAST),
        ("ld.volatile.global.b32 %r1, [%rd1];", costs.L1_PAST),
        ("ld.relaxed.gpu.global.b32 %r1, [%rd1];", costs.L1_PAST),
        ("ld.acquire.gpu.global.b32 %r1, [%rd1];", costs.L1_DROPPED),
        ("fence.acq_rel.gpu;", costs.L1_DROPPED),
        ("fence.acq_rel.cta;", costs.L1_PAST),
        ("membar.gl;", costs.L1_DROPPED),
        ("st.global.b32 [%rd1], %r1;", costs.L1_PAST),
    ],
)
def test_what_uses_the_l1_cache(statement, use):
    body = f".reg .b32 %r<2>; .reg .b64 %rd<2>;\nmov.b64 %rd1, 0; mov.b32 %r1, 0;\n{statement}\nret;"
    kernel = Program.parse(EMPTY.replace("ret;", body)).kernel()
    inst = next(i for i in kernel.instructions if i.name in ("ld", "st", "fence", "membar"))
    assert costs.l1_use(inst) == use
