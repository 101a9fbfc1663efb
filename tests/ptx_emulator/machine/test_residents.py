"""CTAs that wait for each other, and kernels that depend on the order of CTAs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ptx_emulator.errors import Deadlock
from ptx_emulator.machine.residents import Waiting

from ..helpers import ORDERS, aligned, kernel, pointer, run

# CTA `first` waits for the flag of the other one, then writes what that has left; every CTA marks that it has run.
FLAG = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    setp.eq.u32 %p0, %r0, {waits};
    @%p0 bra WAIT;
    st.global.b32 [%rd1+4], 5;
    st.release.gpu.global.b32 [%rd1], 1;
    bra DONE;
WAIT:
    ld.acquire.gpu.global.b32 %r1, [%rd1];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra WAIT;
    ld.global.b32 %r2, [%rd1+4];
    st.global.b32 [%rd1+8], %r2;
DONE:
"""

# Every CTA arrives at a counter and waits until all have.
GRID_BARRIER = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    mul.wide.u32 %rd2, %r0, 4;
    add.u64 %rd2, %rd2, %rd1;
    st.global.b32 [%rd2+64], %r0;
    atom.acq_rel.gpu.global.add.u32 %r1, [%rd1], 1;
WAIT:
    ld.acquire.gpu.global.b32 %r1, [%rd1];
    mov.u32 %r2, %nctaid.x;
    setp.lt.u32 %p1, %r1, %r2;
    @%p1 bra WAIT;
    xor.b32 %r3, %r0, 1;
    mul.wide.u32 %rd3, %r3, 4;
    add.u64 %rd3, %rd3, %rd1;
    ld.global.b32 %r4, [%rd3+64];
    st.global.b32 [%rd2+128], %r4;
"""


def flag(waits: int, **options):
    out = aligned(64, np.uint32)
    ptx = kernel(".param .b64 out", FLAG.format(waits=waits))
    report = run(ptx, [pointer(out)], [out], grid=(2, 1, 1), block=(1, 1, 1), **options)
    return out, report


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("waits", [0, 1])
def test_a_cta_may_wait_for_a_later_one(waits, order, checks):
    out, report = flag(waits, order=order, checks=checks)
    assert out[2] == 5 and report.hazards == []


def test_who_does_not_fit_cannot_help():
    with pytest.raises(Deadlock, match="1 clusters have not started: 1 are resident"):
        flag(0, resident_clusters=1)
    assert flag(1, resident_clusters=1)[0][2] == 5
    with pytest.raises(Deadlock):
        flag(1, resident_clusters=1, cluster_order="descending")


@pytest.mark.parametrize("cluster_order", ["ascending", "descending", "random"])
def test_a_barrier_of_the_whole_grid(cluster_order):
    out = aligned(256, np.uint32)
    ptx = kernel(".param .b64 out", GRID_BARRIER)
    run(ptx, [pointer(out)], [out], grid=(16, 1, 1), block=(1, 1, 1), cluster_order=cluster_order)
    assert out[32:48].tolist() == [i ^ 1 for i in range(16)]
    out[:] = 0
    with pytest.raises(Deadlock, match="1 clusters have not started: 15 are resident") as caught:
        run(ptx, [pointer(out)], [out], grid=(16, 1, 1), block=(1, 1, 1), resident_clusters=15)
    assert "CTA (0, 0, 0)" in str(caught.value) and "CTA (14, 0, 0)" in str(caught.value)


def test_a_kernel_that_depends_on_the_order_of_ctas_is_found():
    """Every CTA adds to what the CTA before has left, without a flag: right only in ascending order."""
    body = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    mul.wide.u32 %rd2, %r0, 4;
    add.u64 %rd2, %rd2, %rd1;
    ld.volatile.global.b32 %r1, [%rd2];
    add.u32 %r1, %r1, 1;
    st.volatile.global.b32 [%rd2+4], %r1;
"""
    results = {}
    for options in ({}, {"cluster_order": "descending"}, {"order": "adversarial", "seed": 1}):
        out = aligned(256, np.uint32)
        report = run(kernel(".param .b64 out", body), [pointer(out)], [out], grid=(8, 1, 1), block=(1, 1, 1), **options)
        results[str(options)] = int(out[8])
        assert len(report.by_cluster) == 8
    right, *others = results.values()
    assert right == 8 and all(other != 8 for other in others), results


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("dims", [(1, 1, 1), (7, 1, 1), (4, 3, 2), (16, 5, 1)])
def test_every_cluster_starts_once(dims, order):
    waiting = Waiting(dims, order, random.Random(3))
    places = [waiting.popleft() for _ in range(len(waiting))]
    assert not waiting and len(set(places)) == np.prod(dims) == len(places)
    assert all(i < n for place in places for i, n in zip(place, dims, strict=True))
    ascending = sorted(places, key=lambda place: place[::-1])
    assert (places == ascending) if order == "ascending" else (places == ascending[::-1] or order == "random")
