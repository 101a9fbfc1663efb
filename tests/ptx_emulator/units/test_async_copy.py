"""cp.async groups and barriers, st.async, red.async."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import BarrierMisuse, Deadlock, Misaligned, OutOfBounds, UnsupportedInstruction

from ..lanes import aligned, program, run

ORDERS = ["in_order", "late", "random"]
BUFFER = ".shared .align 16 .b8 buf[1024]; .shared .align 8 .b64 bar;"
LANES = np.arange(32)


def copy_kernel(body: str) -> str:
    """Sets %r1 to buf + 16 * lane, %rd1 to the source of the lane's 16 bytes, %rd2 to the lane's output word."""
    return program(
        f"""{BUFFER} mov.u32 %r1, buf; mad.lo.u32 %r1, %thread, 16, %r1; mad.wide.u32 %rd1, %thread, 16, %ptr0;
        mad.wide.u32 %rd2, %thread, 16, %ptr1; {body}
        ld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r1]; st.global.v4.u32 [%rd2], {{%r10, %r11, %r12, %r13}};""",
        2,
    )


def source_and_target() -> tuple[np.ndarray, np.ndarray]:
    x, y = aligned(512).view(np.uint32), aligned(512).view(np.uint32)
    x[:] = np.random.default_rng(0).integers(0, 2**32, 128, np.uint32)
    return x, y


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("finish", ["cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_copied_bytes_are_there_after_the_wait(order, finish):
    x, y = source_and_target()
    run(copy_kernel(f"cp.async.cg.shared.global [%r1], [%rd1], 16; {finish}"), [x, y], order=order)
    np.testing.assert_array_equal(y, x)


def test_a_missing_wait_shows_when_copies_are_late():
    x, y = source_and_target()
    run(copy_kernel("cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;"), [x, y], order="late")
    assert (y == 0xFFFFFFFF).all()


@pytest.mark.parametrize("order", ORDERS)
def test_wait_group_lets_the_newest_groups_be_pending(order):
    x, y = source_and_target()
    run(
        copy_kernel("""cp.async.ca.shared.global [%r1], [%rd1], 8; cp.async.commit_group;
        cp.async.ca.shared.global [%r1+8], [%rd1+8], 4; cp.async.ca.shared.global [%r1+12], [%rd1+12], 4;
        cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r20, [%r1+4]; cp.async.wait_group 0;"""),
        [x, y],
        order=order,
    )
    np.testing.assert_array_equal(y, x)


def test_source_size_fills_the_rest_with_zeros():
    x, y = source_and_target()
    run(
        copy_kernel("""and.b32 %r2, %thread, 3; shl.b32 %r2, %r2, 2; cp.async.ca.shared.global [%r1], [%rd1], 16, %r2;
        cp.async.wait_all;"""),
        [x, y],
    )
    expected = x.reshape(32, 4).copy()
    expected[np.arange(4)[None] >= (LANES % 4)[:, None]] = 0
    np.testing.assert_array_equal(y.reshape(32, 4), expected)


@pytest.mark.parametrize("predicate,ignored", [("%p3", LANES % 2 == 1), ("!%p3", LANES % 2 == 0)])
def test_an_ignored_source_gives_zeros_and_is_not_read(predicate, ignored):
    """Where the predicate is true the source may be anything."""
    x, y = source_and_target()
    run(
        copy_kernel(f"""and.b32 %r2, %thread, 1; setp.ne.u32 %p3, %r2, 0; mov.u64 %rd5, %rd1;
        @{predicate} mov.u64 %rd5, 16; cp.async.cg.shared.global [%r1], [%rd5], 16, {predicate}; cp.async.wait_all;"""),
        [x, y],
    )
    np.testing.assert_array_equal(y.reshape(32, 4), np.where(ignored[:, None], 0, x.reshape(32, 4)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("noinc, count", [(".noinc", 32), ("", 1)])
def test_barrier_arrival_follows_each_threads_copies(order, noinc, count):
    """With .noinc the 32 arrivals are part of the barrier's count; without it they cancel out."""
    x, y = source_and_target()
    own = "" if noinc else "@%p1 mbarrier.arrive.shared.b64 _, [bar];"
    run(
        copy_kernel(f"""setp.eq.u32 %p1, %thread, 0; @%p1 mbarrier.init.shared.b64 [bar], {count}; bar.sync 0;
        cp.async.ca.shared.global [%r1], [%rd1], 16; cp.async.mbarrier.arrive{noinc}.shared.b64 [bar];
        bar.warp.sync -1; {own}
        W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;"""),
        [x, y],
        order=order,
    )
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    "body, error",
    [
        ("cp.async.ca.shared.global [%r1+2], [%rd1], 4;", Misaligned),
        ("cp.async.ca.shared.global [%r1], [%rd1+2], 4;", Misaligned),
        ("cp.async.ca.shared.global [%r1], [%rd1+4096], 4;", OutOfBounds),
        ("cp.async.ca.shared.global [%r1+4096], [%rd1], 4;", OutOfBounds),
        ("cp.async.cg.shared.global [%r1], [%rd1], 8;", UnsupportedInstruction),
        ("cp.async.ca.shared.global.L3 [%r1], [%rd1], 8;", UnsupportedInstruction),
        ("cp.async.mbarrier.arrive.noinc.shared.b64 [bar];", BarrierMisuse),
    ],
)
def test_copy_errors(body, error):
    x, y = source_and_target()
    with pytest.raises(error, match=r"PTX line \d+"):
        run(copy_kernel(body), [x, y])


@pytest.mark.parametrize("order", ORDERS)
def test_st_async_writes_remote_memory_and_counts_bytes(order):
    """Each CTA sends 8 bytes a lane to the other; the receiver expects 256 bytes."""
    y = np.zeros(128, np.uint32)
    run(
        program(
            f"""{BUFFER} mov.u32 %r9, %cluster_ctarank; setp.eq.u32 %p1, %lane_base, 0;
        @%p1 mbarrier.init.shared.b64 [bar], 1; @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;
        barrier.cluster.arrive; barrier.cluster.wait;
        mov.u32 %r1, buf; mad.lo.u32 %r2, %lane_base, 8, %r1; xor.b32 %r3, %r9, 1;
        mapa.shared::cluster.u32 %r4, %r2, %r3;
        mov.u32 %r5, bar; mapa.shared::cluster.u32 %r6, %r5, %r3; add.u32 %r7, %thread, 1000;
        st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r4], {{%thread, %r7}}, [%r6];
        W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;
        ld.shared.v2.u32 {{%r10, %r11}}, [%r2]; mad.wide.u32 %rd1, %thread, 8, %ptr0;
        st.global.v2.u32 [%rd1], {{%r10, %r11}};
        barrier.cluster.arrive; barrier.cluster.wait;""",
            1,
        ),
        [y],
        grid=(2,),
        cluster=(2,),
        order=order,
    )
    other = np.concatenate([32 + LANES, LANES])
    np.testing.assert_array_equal(y.reshape(64, 2), np.stack([other, other + 1000], 1))


@pytest.mark.parametrize("order", ORDERS)
def test_red_async_adds_every_lane(order):
    y = np.zeros(1, np.uint32)
    run(
        program(
            f"""{BUFFER} setp.eq.u32 %p1, %lane_base, 0; @%p1 mbarrier.init.shared.b64 [bar], 1;
        @%p1 st.shared.u32 [buf], 5; @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 128; bar.sync 0;
        mov.u32 %r1, buf; mov.u32 %r2, bar;
        red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %thread, [%r2];
        W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;
        @%p1 ld.shared.u32 %r3, [buf]; @%p1 st.global.u32 [%ptr0], %r3;""",
            1,
        ),
        [y],
        order=order,
    )
    assert y[0] == 5 + 496


@pytest.mark.parametrize("operation,start,bound,expected", [("inc", 3, 10, 2), ("dec", 3, 10, 4)])
def test_red_async_wraps(operation, start, bound, expected):
    """32 lanes: inc starts again at 0 past the bound, dec at the bound past 0 (periods of 11)."""
    y = np.zeros(1, np.uint32)
    run(
        program(
            f"""{BUFFER} setp.eq.u32 %p1, %lane_base, 0; @%p1 mbarrier.init.shared.b64 [bar], 1;
        @%p1 st.shared.u32 [buf], {start}; @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 128; bar.sync 0;
        mov.u32 %r1, buf; mov.u32 %r2, bar;
        red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{operation}.u32 [%r1], {bound}, [%r2];
        W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;
        @%p1 ld.shared.u32 %r3, [buf]; @%p1 st.global.u32 [%ptr0], %r3;""",
            1,
        ),
        [y],
    )
    assert y[0] == expected


def test_too_few_bytes_is_a_deadlock_that_names_the_barrier():
    with pytest.raises(Deadlock, match="tx 4"):
        run(
            program(
                f"""{BUFFER} setp.eq.u32 %p1, %lane_base, 0; @!%p1 exit; mbarrier.init.shared.b64 [bar], 1;
            mbarrier.arrive.expect_tx.shared.b64 _, [bar], 8; mov.u32 %r1, buf; mov.u32 %r2, bar;
            st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r1], %r1, [%r2];
            W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;""",
                0,
            ),
            [],
        )
