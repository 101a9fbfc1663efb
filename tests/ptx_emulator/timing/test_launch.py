"""Whole launches with time: overlap shows, waits are told, results stay those of the untimed emulator."""

import struct

import numpy as np
import pytest

from bench.micro import tma
from ptx_emulator import launch
from ptx_emulator.errors import LimitExceeded, UnsupportedInstruction
from ptx_emulator.front.decode import Program
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, time_launch
from ptx_emulator.timing.costs import cost_of
from ptx_emulator.timing.launch import CtaTiming, _compose

HEADER = ".version 9.0\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n"


def timed(ptx, constants=None, clusters=(0,), **options):
    launched = prepare_launch(ptx, "k", **{"cluster": (1, 1, 1), "shared_bytes": 0, **options})
    return time_launch(launched, constants or Constants.of(), clusters=clusters)


def loop(body: str, count: int = 50, threads: int = 32) -> tuple[str, dict]:
    out = np.zeros(threads, np.float32)
    ptx = f"""{HEADER}.visible .entry k(.param .u64 out)
{{
.reg .pred %p<4>; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %rd<8>;
mov.u32 %r0, %tid.x; mov.u32 %r1, 0; cvt.rn.f32.u32 %f0, %r0; mov.f32 %f1, 0f3F000000; mov.f32 %f2, %f0;
AGAIN:
{body}
add.s32 %r1, %r1, 1;
setp.lt.s32 %p0, %r1, {count};
@%p0 bra AGAIN;
ld.param.u64 %rd0, [out]; mul.wide.u32 %rd1, %r0, 4; add.s64 %rd0, %rd0, %rd1;
add.f32 %f2, %f2, %f0;
st.global.f32 [%rd0], %f2;
ret;
}}
"""
    options = {"grid": (1, 1, 1), "block": (threads, 1, 1), "params": [struct.pack("<Q", out.ctypes.data)]}
    return ptx, {**options, "buffers": [out]}


def test_results_are_those_of_the_untimed_emulator():
    ptx, options = loop("fma.rn.f32 %f0, %f0, %f1, %f1;")
    launch(ptx, "k", **options)
    expected = options["buffers"][0].copy()
    options["buffers"][0][:] = 0
    timed(ptx, **options)
    assert np.array_equal(options["buffers"][0], expected)


@pytest.mark.parametrize("body", [
    "mov.u32 %r1, 0;", "ld.param.u64 %rd0, [out]; ld.volatile.global.u32 %r1, [%rd0];",
    "ld.param.u64 %rd0, [out]; st.global.u32 [%rd0], %r1; atom.global.or.b32 %r1, [%rd0], 0; mov.u32 %r1, 0;",
], ids=["registers", "a load", "stores and atomics"])  # fmt: skip
@pytest.mark.parametrize("limits", [{"step_limit": 200_000}, {"time_limit": 0.3}], ids=str)
@pytest.mark.parametrize("threads", [32, 96])
def test_limits_end_what_never_ends(threads, limits, body):
    ptx, options = loop(body, threads=threads)
    with pytest.raises(LimitExceeded, match=r"PTX line \d+: (.|\n)*_limit=.* warp \d runs here"):
        timed(ptx, **options, **limits)


def test_limits_are_of_all_clusters_and_change_no_time():
    ptx, options = tma.loads(8192, 4, 12, ctas=4)
    free = timed(ptx, clusters=range(4), **options)
    limited = timed(ptx, clusters=range(4), **options, step_limit=1_000_000, time_limit=600)
    assert [one.cycles for one in free.clusters] == [one.cycles for one in limited.clusters]
    least = 100
    while True:  # a limit that one cluster keeps and four do not
        try:
            timed(ptx, clusters=[0], **options, step_limit=least)
            break
        except LimitExceeded:
            least *= 2
    with pytest.raises(LimitExceeded):
        timed(ptx, clusters=range(4), **options, step_limit=least)


def test_a_launch_takes_the_same_time_every_time():
    ptx, options = tma.loads(8192, 4, 12, ctas=4)
    first = timed(ptx, **options)
    assert first.cycles == timed(ptx, **options).cycles > 0


def test_a_chain_costs_its_latency_and_independent_work_its_rate():
    chain = "\n".join(["fma.rn.f32 %f0, %f0, %f1, %f1;"] * 32)
    apart = "\n".join(f"fma.rn.f32 %f{4 + i}, %f1, %f1, %f1;" for i in range(32))
    cycles = []
    for body in (chain, apart):
        ptx, options = loop(body)
        cycles.append(timed(ptx, Constants.of(branch=1), **options).cycles)
    chained, separate = cycles
    assert chained == pytest.approx(50 * 32 * 4, rel=0.1)
    assert separate < 0.4 * chained


def test_more_loads_in_flight_take_less_time():
    """One stage waits out every round trip; eight keep HBM busy. The mutant of the model, a latency of nothing, hides
    the difference."""
    cycles = {}
    for stages in (1, 8):
        ptx, options = tma.loads(8192, stages, 32, ctas=148)
        cycles[stages] = timed(ptx, **options).cycles
    assert cycles[1] > 2.5 * cycles[8]
    no_latency = Constants.of(**{f"tma_{size}": 45.0 for size in ("512", "4k", "8k", "16k", "32k")}, hbm_latency=1.0)
    ptx, options = tma.loads(8192, 1, 32, ctas=148)
    assert timed(ptx, constants=no_latency, **options).cycles < 0.5 * cycles[1]


def test_waits_name_the_barrier_and_what_completed_it():
    ptx, options = tma.loads(8192, 1, 16, ctas=1)
    cluster = timed(ptx, **options).clusters[0]
    by = {completed for _, _, completed in cluster.waits}
    assert by == {"tma"}
    assert sum(cluster.waits.values()) > 0.8 * cluster.cycles
    assert cluster.bytes[0] == 16 * 8192


def test_what_has_no_cost_class_is_an_error_that_names_it():
    kernel = Program.parse(loop("")[0]).kernel()
    inst = next(i for i in kernel.instructions if i.name == "add")
    inst.name = "frobnicate"
    with pytest.raises(UnsupportedInstruction, match=r"add\..*no cost class"):
        cost_of(inst, False)


def test_clusters_that_were_not_executed_take_as_long_as_their_neighbours():
    made = [CtaTiming(n, cycles, {}, {}, {}, (0, 0, 0), ()) for n, cycles in ((0, 100.0), (3, 400.0))]
    assert _compose(4, 148, made) == 400.0
    # One slot: 100, 200, 300, 400 one after the other.
    assert _compose(4, 1, made) == 1000.0
    assert _compose(4, 2, made) == 600.0
