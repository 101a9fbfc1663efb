"""Schedules: what `order` does to programs that are right, and to one that is not."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Program

from ..lanes import program, run

ROUNDS = 24
WORK = 1500  # iterations between a warp's read and its next store


def _exchange(second_barrier: bool) -> Program:
    """Two warps swap a number ROUNDS times through one slot each and add up what they receive.

    With one barrier a round, a warp may store its next number before its partner has read this one; but only if the
    partner stands still while this warp does its WORK.
    """
    body = f"""
    shr.u32 %r0, %thread, 5;
    mov.u32 %r1, slots;
    mad.lo.u32 %r2, %r0, 4, %r1;
    xor.b32 %r3, %r0, 1;
    mad.lo.u32 %r3, %r3, 4, %r1;
    mov.u32 %r4, 0;
    mov.u32 %r5, 0;
LOOP:
    mad.lo.u32 %r6, %r0, 1000, %r4;
    st.shared.u32 [%r2], %r6;
    bar.sync 0;
    ld.shared.u32 %r7, [%r3];
    add.u32 %r5, %r5, %r7;
    {"bar.sync 0;" if second_barrier else ""}
    mov.u32 %r8, 0;
WORK:
    add.u32 %r8, %r8, 1;
    setp.lt.u32 %p1, %r8, {WORK};
    @%p1 bra WORK;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p0, %r4, {ROUNDS};
    @%p0 bra LOOP;
    mul.wide.u32 %rd0, %thread, 4;
    add.u64 %rd0, %ptr0, %rd0;
    st.global.u32 [%rd0], %r5;
"""
    return Program.parse(program(body, 1, module=".shared .align 4 .b8 slots[8];"))


def _received(ptx: Program, seed: int) -> np.ndarray:
    out = np.zeros(64, np.uint32)
    run(ptx, [out], block=(64,), order="random", seed=seed)
    return out


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    sums = sum(range(ROUNDS)) + 1000 * ROUNDS * np.array([1, 0])
    return np.repeat(sums, 32).astype(np.uint32)


def test_random_schedules_agree_on_a_right_program(expected):
    ptx = _exchange(second_barrier=True)
    for seed in range(20):
        np.testing.assert_array_equal(_received(ptx, seed), expected)


def test_random_schedules_expose_a_missing_barrier(expected):
    ptx = _exchange(second_barrier=False)
    wrong = sum(not np.array_equal(_received(ptx, seed), expected) for seed in range(20))
    assert wrong >= 4


def test_a_seed_fixes_the_schedule():
    ptx = _exchange(second_barrier=False)
    for seed in range(10):
        np.testing.assert_array_equal(_received(ptx, seed), _received(ptx, seed))
