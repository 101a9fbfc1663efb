"""Limits, spins and Ctrl-C: no kernel keeps the emulator for ever."""

from __future__ import annotations

import _thread
import signal
import threading
import time

import pytest

from ptx_emulator.errors import Deadlock, EmulationError, LimitExceeded

from ..helpers import ORDERS, aligned, kernel, pointer, run

SPIN = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r9, 0;
SPIN:
    {poll}
    setp.eq.u32 %p0, %r1, {until};
    @!%p0 bra SPIN;
"""
POLLS = {
    "atom": "atom.global.or.b32 %r1, [%rd1], 0;",
    "cas": "atom.acquire.gpu.global.cas.b32 %r1, [%rd1], 7, 8;",
    "acquire": "ld.acquire.gpu.global.b32 %r1, [%rd1];",
    "volatile": "ld.volatile.global.b32 %r1, [%rd1];",
    "fences": "tcgen05.fence::after_thread_sync;\nfence.acq_rel.gpu;\nld.relaxed.gpu.global.b32 %r1, [%rd1];",
    "nanosleep": "nanosleep.u32 20;\nld.relaxed.gpu.global.b32 %r1, [%rd1];",
}
ENDLESS = {
    "counting atom": "atom.global.add.u32 %r1, [%rd1], 2;\nor.b32 %r1, %r1, 1;",
    "stores": "st.volatile.global.b32 [%rd1], %r9;\nmov.u32 %r1, 0;",
}


def spin(poll: str, **options):
    out = aligned(64)
    ptx = kernel(".param .b64 out", SPIN.format(poll=poll, until=77))
    return run(ptx, [pointer(out)], [out], **({"block": (64, 1, 1)} | options))


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("name", POLLS)
def test_a_spin_on_what_nobody_changes_is_a_deadlock(name, checks):
    with pytest.raises(Deadlock, match=r"warp 1 lanes 0xffffffff, line \d+") as caught:
        spin(POLLS[name], checks=checks)
    assert "spins without anything changing" in str(caught.value)


@pytest.mark.parametrize("order", ORDERS)
def test_a_spin_is_found_in_every_order(order):
    with pytest.raises(Deadlock, match="spins"):
        spin(POLLS["acquire"], order=order)


@pytest.mark.parametrize("options", [{"step_limit": 200_000}, {"time_limit": 0.3}])
@pytest.mark.parametrize("name", ENDLESS)
def test_limits_end_what_changes_something_for_ever(name, options):
    with pytest.raises(LimitExceeded, match=r"PTX line \d+: (.|\n)*_limit=.* warp [01] runs here") as caught:
        spin(ENDLESS[name], **options)
    assert caught.value.line is not None and "warp 1 lanes" in str(caught.value)


def test_limits_hold_with_checks_and_for_the_whole_grid():
    with pytest.raises(LimitExceeded):
        spin(ENDLESS["counting atom"], checks=True, step_limit=50_000)
    body = "ld.param.b64 %rd1, [out];\nmov.u32 %r0, 1;\nmov.u32 %r0, 2;"
    ptx, out = kernel(".param .b64 out", body), aligned(64)
    run(ptx, [pointer(out)], [out], grid=(100, 1, 1), step_limit=100_000, time_limit=100)
    with pytest.raises(LimitExceeded, match="step_limit=300"):
        run(ptx, [pointer(out)], [out], grid=(100, 1, 1), step_limit=300)


def test_a_loop_that_ends_is_no_spin():
    """For long nothing changes, but the state does."""
    body = """
    mov.u32 %r1, 0;
LOOP:
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p0, %r1, 400000;
    @%p0 bra LOOP;
"""
    assert run(kernel("", body), [], []).warp_instructions > 1_200_000


def test_a_kernel_that_waits_for_the_clock_ends():
    body = """
    mov.u32 %r1, %clock;
LOOP:
    mov.u32 %r2, %clock;
    sub.u32 %r2, %r2, %r1;
    setp.lt.u32 %p0, %r2, 1000000;
    mov.u32 %r2, 0;
    @%p0 bra LOOP;
"""
    run(kernel("", body), [], [])


@pytest.fixture
def ctrl_c():
    """SIGINT as in a command: the worker processes of pytest-xdist ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("poll", [POLLS["volatile"], ENDLESS["counting atom"]])
def test_interrupts_are_heard(poll):
    """As Ctrl-C: a signal's handler runs within about a slice of compiled code."""
    clocked = "mov.u32 %r2, %clock;\n" + poll  # a clock: whether it spins for ever cannot be known
    timer = threading.Timer(1.0, _thread.interrupt_main)
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        spin(clocked, time_limit=60)
    timer.cancel()
    assert time.monotonic() - started < 15


def test_a_huge_grid_starts_at_once():
    body = "ld.param.b64 %rd1, [out];\nmov.u32 %r0, %ctaid.x;\ntrap;"
    out, started = aligned(64), time.monotonic()
    with pytest.raises(EmulationError, match="trap"):
        run(kernel(".param .b64 out", body), [pointer(out)], [out], grid=(2**31 - 1, 1, 1))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("options, message", [
    ({"step_limit": 0}, "step_limit=0"), ({"step_limit": 1.5}, "step_limit=1.5"), ({"time_limit": -1}, "time_limit=-1"),
    ({"step_limit": "many"}, "step_limit='many'"), ({"step_limit": float("inf")}, "step_limit=inf"),
    ({"time_limit": "long"}, "time_limit='long'"), ({"time_limit": float("nan")}, "time_limit=nan"),
    ({"shared_bytes": -4}, "shared_bytes=-4"), ({"shared_bytes": 1.5}, "shared_bytes=1.5"),
    ({"resident_clusters": 0}, "resident_clusters=0"), ({"cluster_order": "up"}, "cluster_order='up'"),
    ({"grid": (2**31, 1, 1)}, "grid="), ({"grid": (1, 65536, 1)}, "grid="),
])  # fmt: skip
def test_wrong_limits(options, message):
    with pytest.raises(ValueError, match=message):
        run(kernel("", ""), [], [], **options)
