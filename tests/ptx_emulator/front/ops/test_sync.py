"""Control flow, warp-level instructions, barriers of threads, and mbarriers."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import BarrierMisuse, ConvergenceError, Deadlock, Misaligned, Trap, UnsupportedInstruction

from ...lanes import program, run

ORDERS = ["in_order", "late", "random"]
LANES = np.arange(32)


def lanes(body: str, outputs: int = 1, *, block: int = 32, module: str = "", **options) -> list[np.ndarray]:
    """Runs `body`, which leaves results in %r70, %r71, ...; one uint32 array per result, an element a thread."""
    threads = block * int(np.prod(options.get("grid", (1,))))
    results = [np.zeros(threads, np.uint32) for _ in range(outputs)]
    stores = "".join(
        f"mad.wide.u32 %rd70, %thread, 4, %ptr{k}; st.global.u32 [%rd70], %r{70 + k};" for k in range(outputs)
    )
    run(program(body + "\n" + stores, outputs, module=module), results, block=(block,), **options)
    return results


# Divergence and reconvergence.


def test_lanes_take_their_own_branch_and_meet_again():
    got, active = lanes(
        """mov.u32 %r70, 0; and.b32 %r1, %thread, 3;
        setp.eq.u32 %p1, %r1, 0; @%p1 bra A; setp.eq.u32 %p1, %r1, 1; @%p1 bra B; add.u32 %r70, %r70, 100; bra END;
        A: add.u32 %r70, %r70, 1; bra END;
        B: add.u32 %r70, %r70, 10;
        END: activemask.b32 %r71; add.u32 %r70, %r70, 1000;""",
        2,
    )
    np.testing.assert_array_equal(got, 1000 + np.array([1, 10, 100, 100])[LANES % 4])
    assert (active == 0xFFFFFFFF).all()


def test_loops_of_different_length_reconverge():
    got, active = lanes(
        """mov.u32 %r70, 0; mov.u32 %r1, 0;
        LOOP: setp.ge.u32 %p1, %r1, %thread; @%p1 bra DONE; add.u32 %r70, %r70, %r1; add.u32 %r1, %r1, 1;
        bra.uni LOOP;
        DONE: activemask.b32 %r71;""",
        2,
    )
    np.testing.assert_array_equal(got, LANES * (LANES - 1) // 2)
    assert (active == 0xFFFFFFFF).all()


def test_lanes_that_exit_leave_the_others_running():
    got, active = lanes(
        """setp.ge.u32 %p1, %thread, 20; @%p1 exit; bar.warp.sync 0xFFFFF;
        activemask.b32 %r71; mov.u32 %r70, 7;""",
        2,
    )
    np.testing.assert_array_equal(got, np.where(LANES < 20, 7, 0))
    assert set(active[:20].tolist()) == {0xFFFFF}


def test_labels_and_registers_belong_to_their_block():
    """CuTe DSL's inline assembly repeats the same names in every block."""
    block = """{ .reg .pred P1; .reg .b32 t; setp.lt.u32 P1, %thread, LIMIT; mov.u32 t, 1; @P1 bra.uni DONE;
        mov.u32 t, 2; DONE: mad.lo.u32 %r70, %r70, 10, t; }"""
    got = lanes("mov.u32 %r70, 0;" + block.replace("LIMIT", "8") + block.replace("LIMIT", "16"))[0]
    np.testing.assert_array_equal(got, np.select([LANES < 8, LANES < 16], [11, 21], 22))


def test_a_warp_synchronising_instruction_waits_for_diverged_lanes():
    """Lane 31's longer path comes later in the code, so the others are there first and must wait."""
    got = lanes("""mov.u32 %r1, %thread; setp.eq.u32 %p1, %thread, 31; @%p1 bra LATE;
        MEET: shfl.sync.idx.b32 %r70, %r1, 31, 31, 0xFFFFFFFF; bra END;
        LATE: add.u32 %r1, %r1, 500; bra MEET;
        END: add.u32 %r70, %r70, 0;""")[0]
    assert (got == 531).all()


def test_partial_membermask_needs_only_its_lanes():
    got = lanes("""mov.u32 %r70, 9; setp.lt.u32 %p1, %thread, 16; @!%p1 bra END;
        shfl.sync.idx.b32 %r70, %thread, 3, 31, 0xFFFF; END: add.u32 %r70, %r70, 0;""")[0]
    np.testing.assert_array_equal(got, np.where(LANES < 16, 3, 9))


def test_lanes_outside_the_membermask_are_an_error():
    with pytest.raises(ConvergenceError, match="membermask is 0x0000ffff"):
        lanes("shfl.sync.idx.b32 %r70, %thread, 3, 31, 0xFFFF;")


def test_missing_lanes_are_reported_with_the_line_where_the_others_wait():
    with pytest.raises(Deadlock, match=r"lanes 0x7fffffff.*shfl\.sync(.|\n)*waits for lanes 0x80000000"):
        lanes("""mov.b32 %r1, 0; setp.eq.u32 %p1, %thread, 31; @%p1 bra OTHER;
            shfl.sync.idx.b32 %r70, %thread, 3, 31, -1;
            OTHER: bar.warp.sync -1;""")


def test_lanes_of_a_warp_hand_over_through_memory():
    """Lane 0 spins until lane 1, which comes later in the code, writes; lowest-pc-first alone would hang."""
    got = lanes(""".shared .align 4 .b32 flag; st.shared.u32 [flag], 0; bar.warp.sync -1;
        setp.ne.u32 %p1, %thread, 0; @%p1 bra WRITER;
        SPIN: ld.volatile.shared.u32 %r70, [flag]; setp.eq.u32 %p2, %r70, 0; @%p2 bra SPIN; bra END;
        WRITER: st.volatile.shared.u32 [flag], 42; mov.u32 %r70, 1;
        END: add.u32 %r70, %r70, 0;""")[0]
    assert got.tolist() == [42] + [1] * 31


def test_a_spin_on_memory_that_nobody_writes_is_a_deadlock():
    with pytest.raises(Deadlock, match="spins"):
        lanes(""".shared .align 4 .b32 flag; st.shared.u32 [flag], 0;
            SPIN: ld.volatile.shared.u32 %r70, [flag]; setp.eq.u32 %p2, %r70, 0; @%p2 bra SPIN;""")


def test_trap_names_its_line():
    with pytest.raises(Trap, match="PTX line"):
        lanes("setp.eq.u32 %p1, %thread, 5; @%p1 trap; mov.u32 %r70, 0;")


# Warp-level instructions.


def shuffle(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """Source lane and predicate by the pseudocode of PTX ISA 9.7.9.6."""
    bval, cval, segmask = b & 31, c & 31, c >> 8 & 31
    max_lane = lane & segmask | cval & ~segmask
    min_lane = lane & segmask
    if mode == "up":
        j = lane - bval
        valid = j >= max_lane
    elif mode == "down":
        j = lane + bval
        valid = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        valid = j <= max_lane
    else:
        j = min_lane | bval & ~segmask
        valid = j <= max_lane
    return (j if valid else lane), valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffle_follows_the_isa_pseudocode(mode, width):
    for b in (0, 1, 5, 7, 16, 31):
        c = (32 - width) << 8 | (0 if mode == "up" else 31)
        value, valid = lanes(
            f"""mad.lo.u32 %r1, %thread, 3, 1; shfl.sync.{mode}.b32 %r70|%p1, %r1, {b}, {c}, -1;
            selp.u32 %r71, 1, 0, %p1;""",
            2,
        )
        expected = [shuffle(mode, lane, b, c) for lane in range(32)]
        assert value.tolist() == [3 * j + 1 for j, _ in expected]
        assert valid.tolist() == [int(v) for _, v in expected]


def test_shuffle_from_an_inactive_lane_gives_poison():
    got = lanes(
        """mov.u32 %r70, 1; setp.lt.u32 %p1, %thread, 16; @%p1 shfl.sync.idx.b32 %r70, %thread, 20, 31, 0xFFFF;"""
    )[0]
    assert got.tolist() == [0xFFFFFFFF] * 16 + [1] * 16


def test_votes():
    got = lanes(
        """setp.lt.u32 %p1, %thread, 10; setp.lt.u32 %p2, %thread, 99;
        vote.sync.ballot.b32 %r70, %p1, -1; vote.sync.all.pred %p3, %p1, -1; selp.u32 %r71, 1, 0, %p3;
        vote.sync.any.pred %p3, %p1, -1; selp.u32 %r72, 1, 0, %p3; vote.sync.all.pred %p3, %p2, -1;
        selp.u32 %r73, 1, 0, %p3; vote.sync.uni.pred %p3, %p1, -1; selp.u32 %r74, 1, 0, %p3;
        vote.sync.uni.pred %p3, !%p2, -1; selp.u32 %r75, 1, 0, %p3;""",
        6,
    )
    assert [int(g[0]) for g in got] == [0x3FF, 0, 1, 1, 0, 1]
    assert all((g == g[0]).all() for g in got)


def test_match():
    any_mask, all_mask, all_pred, none, none_pred = lanes(
        """shr.u32 %r1, %thread, 3; match.any.sync.b32 %r70, %r1, -1; mov.u32 %r2, 5;
        match.all.sync.b32 %r71|%p1, %r2, -1; selp.u32 %r72, 1, 0, %p1; cvt.u64.u32 %rd1, %thread;
        match.all.sync.b64 %r73|%p2, %rd1, -1; selp.u32 %r74, 1, 0, %p2;""",
        5,
    )
    np.testing.assert_array_equal(any_mask, (0xFF << (LANES // 8 * 8)).astype(np.uint32))
    assert (all_mask == 0xFFFFFFFF).all() and (all_pred == 1).all()
    assert (none == 0).all() and (none_pred == 0).all()


def test_redux():
    got = lanes(
        """add.s32 %r1, %thread, -7; redux.sync.add.s32 %r70, %r1, -1; redux.sync.min.s32 %r71, %r1, -1;
        redux.sync.max.u32 %r72, %r1, -1; redux.sync.xor.b32 %r73, %thread, -1; redux.sync.or.b32 %r74, %thread, -1;
        cvt.rn.f32.s32 %r2, %r1; redux.sync.max.f32 %r75, %r2, -1; redux.sync.min.abs.f32 %r76, %r2, -1;
        setp.eq.u32 %p1, %thread, 9; selp.b32 %r3, 0x7FC00000, %r2, %p1; redux.sync.min.NaN.f32 %r77, %r3, -1;
        redux.sync.min.f32 %r78, %r3, -1;""",
        9,
    )
    values = LANES - 7
    expected = [
        values.sum() % 2**32,
        -7 % 2**32,
        2**32 - 1,
        np.bitwise_xor.reduce(LANES),
        31,
        np.float32(24).view(np.uint32),
        0,
        0x7FFFFFFF,
        np.float32(-7).view(np.uint32),
    ]
    assert [int(g[0]) for g in got] == [int(v) for v in expected]


def test_elect_picks_the_lowest_lane():
    leader, elected, partial = lanes(
        """elect.sync %r70|%p1, -1; selp.u32 %r71, 1, 0, %p1; mov.u32 %r72, 9; setp.ge.u32 %p2, %thread, 12;
        @!%p2 bra END; elect.sync _|%p3, 0xFFFFF000; selp.u32 %r72, 1, 0, %p3; END: add.u32 %r72, %r72, 0;""",
        3,
    )
    assert (leader == 0).all()
    assert elected.tolist() == [1] + [0] * 31
    assert partial.tolist() == [9] * 12 + [1] + [0] * 19


def test_special_registers():
    got = lanes(
        """mov.u32 %r70, %laneid; mov.u32 %r71, %warpid; mov.u32 %r72, %lanemask_lt;
        mov.u32 %r73, %lanemask_ge;
        mov.u32 %r74, %ntid.x; mov.u32 %r75, %ctaid.x; mov.u32 %r76, %nctaid.x; mov.u32 %r77, %cluster_ctarank;
        mov.u32 %r78, %clusterid.x; mov.u32 %r79, %dynamic_smem_size;""",
        10,
        block=64,
        grid=(4,),
        cluster=(2,),
        shared_bytes=96,
    )
    t = np.arange(256)
    lane = t % 32
    expected = [lane, t % 64 // 32, (1 << lane) - 1, 2**32 - (1 << lane), 64, t // 64, 4, t // 64 % 2, t // 128, 96]
    for result, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_three_dimensional_blocks_and_grids():
    out = np.zeros((2 * 2 * 24, 4), np.uint32)
    body = """mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ctaid.x;
        mov.u32 %r5, %ctaid.z;
        mad.lo.u32 %r6, %r5, 2, %r4; mad.lo.u32 %r7, %r3, 3, %r2; mad.lo.u32 %r7, %r7, 4, %r1;
        mad.lo.u32 %r8, %r6, 24, %r7; mad.wide.u32 %rd1, %r8, 16, %ptr0; shl.b32 %r5, %r5, 8; or.b32 %r4, %r4, %r5;
        st.global.u32 [%rd1], %r1; st.global.u32 [%rd1+4], %r2; st.global.u32 [%rd1+8], %r3;
        st.global.u32 [%rd1+12], %r4;"""
    run(program(body, 1), [out], block=(4, 3, 2), grid=(2, 1, 2))
    for cta in range(4):
        for t in range(24):
            assert out[cta * 24 + t].tolist() == [t % 4, t // 4 % 3, t // 12, cta % 2 | cta // 2 << 8]


def test_clock_advances():
    first, later = lanes("mov.u32 %r70, %clock; add.u32 %r1, %r70, 1; add.u32 %r1, %r1, 1; mov.u32 %r71, %clock;", 2)
    assert (later > first).all()


# Barriers of threads.


@pytest.mark.parametrize("order", ORDERS)
def test_bar_sync_orders_shared_memory_between_warps(order):
    got = lanes(
        """.shared .align 4 .b8 buf[512]; mov.u32 %r1, buf; mad.lo.u32 %r2, %thread, 4, %r1;
        st.shared.u32 [%r2], %thread; bar.sync 0; xor.b32 %r3, %thread, 127; mad.lo.u32 %r3, %r3, 4, %r1;
        ld.shared.u32 %r70, [%r3]; barrier.sync.aligned 1, 128; add.u32 %r5, %r70, %r70; st.shared.u32 [%r3], %r5;
        barrier.sync 2; ld.shared.u32 %r4, [%r2]; add.u32 %r70, %r70, %r4;""",
        block=128,
        order=order,
    )[0]
    np.testing.assert_array_equal(got, 127 - np.arange(128) + 2 * np.arange(128))


@pytest.mark.parametrize("order", ORDERS)
def test_arrive_and_sync_form_a_producer_consumer_pair(order):
    """Warp 0 produces and arrives, warp 1 waits; 64 threads take part (PTX ISA 9.7.13.1, example)."""
    got = lanes(
        """.shared .align 4 .b8 buf[128]; mov.u32 %r1, buf; mov.u32 %r70, 0; and.b32 %r2, %thread, 31;
        mad.lo.u32 %r1, %r2, 4, %r1; setp.ge.u32 %p1, %thread, 32; @%p1 bra CONSUMER; mov.u32 %r3, 0;
        DELAY: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 2000; @%p2 bra DELAY;
        st.shared.u32 [%r1], %r3; bar.arrive 3, 64; bra END;
        CONSUMER: bar.sync 3, 64; ld.shared.u32 %r70, [%r1];
        END: add.u32 %r70, %r70, 0;""",
        block=64,
        order=order,
    )[0]
    assert got.tolist() == [0] * 32 + [2000] * 32


def test_bar_red_reduces_over_all_threads():
    got = lanes(
        """setp.lt.u32 %p1, %thread, 40; bar.red.popc.u32 %r70, 0, %p1; bar.red.and.pred %p2, 1, 96, %p1;
        selp.u32 %r71, 1, 0, %p2; bar.red.or.pred %p2, 1, %p1; selp.u32 %r72, 1, 0, %p2;
        bar.red.and.pred %p2, 2, !%p3; setp.ne.u32 %p3, 0, 1; bar.red.and.pred %p2, 2, %p3;
        selp.u32 %r73, 1, 0, %p2;""",
        4,
        block=96,
    )
    assert [set(g.tolist()) for g in got] == [{40}, {0}, {1}, {1}]


def test_warps_that_exited_are_not_waited_for():
    got = lanes("""setp.ge.u32 %p1, %thread, 64; @%p1 exit; bar.sync 0; mov.u32 %r70, 3;""", block=128)[0]
    assert got.tolist() == [3] * 64 + [0] * 64


@pytest.mark.parametrize(
    "instruction, message",
    [
        ("bar.sync 16;", "there are 16"),
        ("bar.sync 1, 33;", "multiple of 32"),
        ("bar.sync 1, 32; bar.arrive 1, 0;", "multiple"),
    ],
)
def test_named_barrier_misuse(instruction, message):
    with pytest.raises(BarrierMisuse, match=message):
        lanes(instruction)


def test_two_thread_counts_for_one_barrier():
    with pytest.raises(BarrierMisuse, match="the same for all"):
        lanes("setp.lt.u32 %p1, %thread, 32; @%p1 bar.sync 1, 64; @!%p1 bar.sync 1, 96;", block=96)


def test_a_barrier_that_never_fills_says_who_waits():
    with pytest.raises(Deadlock, match=r"warp 1 .*bar\.sync 4, 96(.|\n)*barrier 4, 64 of 96"):
        lanes("bar.sync 4, 96;", block=64)


@pytest.mark.parametrize("order", ORDERS)
def test_cluster_barrier_orders_distributed_shared_memory(order):
    got = lanes(
        """.shared .align 4 .b8 buf[128]; mov.u32 %r1, buf; mov.u32 %r9, %cluster_ctarank;
        mov.u32 %r8, %laneid;
        mad.lo.u32 %r2, %r8, 4, %r1; mad.lo.u32 %r3, %r9, 100, %r8; st.shared.u32 [%r2], %r3;
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        add.u32 %r4, %r9, 1; and.b32 %r4, %r4, 1; mapa.shared::cluster.u32 %r5, %r2, %r4;
        ld.shared::cluster.u32 %r70, [%r5]; barrier.cluster.arrive.relaxed; barrier.cluster.wait;""",
        grid=(4,),
        cluster=(2,),
        order=order,
    )[0]
    expected = np.concatenate([100 * (1 - c % 2) + LANES for c in range(4)])
    np.testing.assert_array_equal(got, expected)


def test_cluster_barrier_deadlock_is_reported():
    with pytest.raises(Deadlock, match="cluster barrier, 32 threads arrived"):
        lanes(
            """mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p1, %r1, 0; @%p1 barrier.cluster.arrive;
            @%p1 barrier.cluster.wait; @!%p1 bar.sync 1, 64;""",
            grid=(2,),
            cluster=(2,),
        )


@pytest.mark.parametrize(
    "code, message",
    [
        ("barrier.cluster.wait;", "warp 0, lane 0: barrier.cluster.wait without an arrival"),
        (
            "barrier.cluster.arrive; barrier.cluster.wait; barrier.cluster.wait;",
            "lane 0: barrier.cluster.wait without an arrival",
        ),
        (
            "mov.u32 %r8, %laneid; setp.lt.u32 %p1, %r8, 5; @%p1 barrier.cluster.arrive; barrier.cluster.wait;",
            "lane 5: barrier.cluster.wait without an arrival",
        ),
        ("barrier.cluster.arrive; barrier.cluster.arrive;", "lane 0: a second arrival at the cluster barrier"),
    ],
)
def test_cluster_barrier_misuse_names_the_lane(code, message):
    with pytest.raises(BarrierMisuse, match=message):
        lanes(code, grid=(2,), cluster=(2,))


def test_lanes_arrive_at_the_cluster_barrier_and_wait_apart():
    """Thread by thread an arrival, then a wait (PTX ISA 9.7.13.3), in any order within a warp."""
    got = lanes(
        """mov.u32 %r8, %laneid; setp.lt.u32 %p1, %r8, 5; mov.u32 %r70, 1;
        @%p1 barrier.cluster.arrive; @!%p1 barrier.cluster.arrive; @!%p1 barrier.cluster.wait;
        @%p1 barrier.cluster.wait; barrier.cluster.arrive; barrier.cluster.wait;""",
        grid=(2,),
        cluster=(2,),
    )[0]
    assert got.tolist() == [1] * 64


# mbarriers.

BARRIER = ".shared .align 8 .b64 bar; .shared .align 8 .b64 bar2; .shared .align 16 .b8 buf[512];"
INIT = "setp.eq.u32 %p9, %lane_base, 0; @%p9 mbarrier.init.shared.b64 [bar], {n}; bar.sync 0;"


def wait(label: str, address: str, parity: str, instruction: str = "try_wait") -> str:
    return f"{label}: mbarrier.{instruction}.parity.shared::cta.b64 %p10, [{address}], {parity};@!%p10 bra {label};"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("instruction", ["try_wait", "test_wait"])
def test_mbarrier_ring_between_warps(order, instruction):
    """Warp 0 fills a one-deep buffer 20 times, warp 1 empties it; full and empty barriers alternate phases."""
    body = f"""{BARRIER} setp.eq.u32 %p1, %lane_base, 0; @%p1 mbarrier.init.shared.b64 [bar], 32;
        @%p1 mbarrier.init.shared.b64 [bar2], 32; fence.mbarrier_init.release.cluster; bar.sync 0;
        mov.u32 %r70, 0; mov.u32 %r1, 0; mov.u32 %r5, buf; and.b32 %r6, %thread, 31; mad.lo.u32 %r5, %r6, 4, %r5;
        setp.ge.u32 %p2, %thread, 32; @%p2 bra CONSUME;
        PRODUCE: and.b32 %r2, %r1, 1; xor.b32 %r3, %r2, 1;
        {wait("W1", "bar2", "%r3", instruction)}
        mad.lo.u32 %r4, %r1, 100, %r6; st.shared.u32 [%r5], %r4; mbarrier.arrive.shared.b64 %rd1, [bar];
        add.u32 %r1, %r1, 1; setp.lt.u32 %p3, %r1, 20; @%p3 bra PRODUCE; bra END;
        CONSUME: and.b32 %r2, %r1, 1;
        {wait("W2", "bar", "%r2", instruction)}
        ld.shared.u32 %r4, [%r5]; mad.lo.u32 %r70, %r70, 3, %r4;
        mbarrier.arrive.release.cta.shared::cta.b64 _, [bar2];
        add.u32 %r1, %r1, 1; setp.lt.u32 %p3, %r1, 20; @%p3 bra CONSUME;
        END: add.u32 %r70, %r70, 0;"""
    got = lanes(body, block=64, order=order, seed=4)[0]
    expected = np.zeros(32, np.uint64)
    for i in range(20):
        expected = (expected * np.uint64(3) + np.uint64(100 * i) + LANES.astype(np.uint64)) % np.uint64(2**32)
    assert (got[:32] == 0).all()
    np.testing.assert_array_equal(got[32:], expected)


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_of_one_warp_wait_for_each_other(order):
    """Lane 0 waits at a lower pc for lanes that arrive at a higher one."""
    got = lanes(
        f"""{BARRIER} {INIT.format(n=31)} mov.u32 %r70, 1; setp.ne.u32 %p1, %thread, 0; @%p1 bra ARRIVE;
        {wait("W", "bar", "0")} mov.u32 %r70, 2; bra END;
        ARRIVE: mbarrier.arrive.shared.b64 %rd1, [bar]; END: add.u32 %r70, %r70, 0;""",
        order=order,
    )[0]
    assert got.tolist() == [2] + [1] * 31


@pytest.mark.parametrize("order", ORDERS)
def test_ctas_of_a_cluster_arrive_at_each_other(order):
    got = lanes(
        f"""{BARRIER} {INIT.format(n=32)} barrier.cluster.arrive; barrier.cluster.wait;
        mov.u32 %r9, %cluster_ctarank; xor.b32 %r1, %r9, 1; mov.u32 %r2, bar; mapa.shared::cluster.u32 %r3, %r2, %r1;
        mov.u32 %r4, buf; mad.lo.u32 %r4, %lane_base, 4, %r4; mapa.shared::cluster.u32 %r5, %r4, %r1;
        st.shared::cluster.u32 [%r5], %thread; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];
        {wait("W", "bar", "0")} ld.shared.u32 %r70, [%r4];
        barrier.cluster.arrive; barrier.cluster.wait;""",
        grid=(2,),
        cluster=(2,),
        order=order,
    )[0]
    np.testing.assert_array_equal(got, np.concatenate([32 + LANES, LANES]))


def test_transaction_bytes_hold_the_phase():
    """expect_tx before the arrival, then two partial completions; the parity that ended is the one waited for."""
    before, after = lanes(
        f"""{BARRIER} {INIT.format(n=1)}
        @%p9 mbarrier.arrive.expect_tx.shared.b64 %rd1, [bar], 64; bar.warp.sync -1;
        @%p9 mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [bar], 40; bar.warp.sync -1;
        mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; selp.u32 %r70, 1, 0, %p1;
        @%p9 mbarrier.complete_tx.shared::cta.b64 [bar], 24; bar.warp.sync -1;
        mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; selp.u32 %r71, 1, 0, %p1;""",
        2,
    )
    assert (before == 0).all() and (after == 1).all()


def test_completion_may_precede_its_expectation():
    got = lanes(f"""{BARRIER} {INIT.format(n=1)}
        @%p9 mbarrier.complete_tx.shared::cta.b64 [bar], 16;
        @%p9 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 16;
        @%p9 mbarrier.arrive.shared.b64 _, [bar]; bar.warp.sync -1;
        mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; selp.u32 %r70, 1, 0, %p1;""")[0]
    assert (got == 1).all()


def test_state_tokens_and_pending_counts():
    """PTX ISA 9.7.13.15.17: the token holds the count before the arrival; waiting on it ends with its phase."""
    got = lanes(
        f"""{BARRIER} {INIT.format(n=3)} mov.u32 %r70, 0; mov.u32 %r71, 0; mov.u32 %r72, 0; mov.u32 %r73, 0;
        @!%p9 bra END; mbarrier.arrive.noComplete.shared.b64 %rd1, [bar], 2; mbarrier.pending_count.b64 %r70, %rd1;
        mbarrier.test_wait.shared.b64 %p1, [bar], %rd1; selp.u32 %r71, 1, 0, %p1;
        mbarrier.arrive.shared.b64 %rd2, [bar]; mbarrier.pending_count.b64 %r72, %rd2;
        mbarrier.try_wait.shared.b64 %p1, [bar], %rd2; selp.u32 %r73, 1, 0, %p1;
        END: bar.warp.sync -1;""",
        4,
    )
    assert [int(g[0]) for g in got] == [3, 0, 1, 1]


def test_arrive_drop_lowers_the_next_phases_count():
    got = lanes(f"""{BARRIER} {INIT.format(n=2)} mov.u32 %r70, 0; @!%p9 bra END;
        mbarrier.arrive_drop.shared.b64 %rd1, [bar]; mbarrier.arrive.shared.b64 %rd1, [bar];
        mbarrier.arrive.shared.b64 %rd2, [bar]; mbarrier.pending_count.b64 %r70, %rd2;
        mbarrier.try_wait.parity.shared.b64 %p1, [bar], 1; @!%p1 trap; END: bar.warp.sync -1;""")[0]
    assert got[0] == 1


def test_a_fresh_barrier_lets_parity_one_pass():
    got = lanes(f"""{BARRIER} {INIT.format(n=1)} mbarrier.try_wait.parity.shared.b64 %p1, [bar], 1, 100;
        selp.u32 %r70, 1, 0, %p1;""")[0]
    assert (got == 1).all()


def test_try_wait_gives_up_when_nothing_else_can_happen():
    """try_wait is only potentially blocking: a program may look, and go on if the phase is not over."""
    got = lanes(f"""{BARRIER} {INIT.format(n=1)} mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0;
        selp.u32 %r70, 1, 5, %p1; bar.warp.sync -1; @%p9 mbarrier.arrive.shared.b64 _, [bar];
        {wait("W", "bar", "0")}""")[0]
    assert (got == 5).all()


def test_generic_addresses_of_barriers():
    got = lanes(f"""{BARRIER} mov.u64 %rd1, bar; cvta.shared.u64 %rd1, %rd1; setp.eq.u32 %p9, %lane_base, 0;
        @%p9 mbarrier.init.b64 [%rd1], 1; bar.sync 0; @%p9 mbarrier.arrive.b64 %rd2, [%rd1]; bar.warp.sync -1;
        mbarrier.test_wait.parity.b64 %p1, [%rd1], 0; selp.u32 %r70, 1, 0, %p1;""")[0]
    assert (got == 1).all()


@pytest.mark.parametrize(
    "body, message",
    [
        ("mbarrier.arrive.shared.b64 %rd1, [bar];", "not initialised"),
        ("mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0;", "not initialised"),
        ("mbarrier.init.shared.b64 [bar], 1;", "initialised again"),
        ("@%p9 mbarrier.init.shared.b64 [bar], 0;", "count 0"),
        (
            "@%p9 mbarrier.init.shared.b64 [bar], 1; @%p9 mbarrier.arrive.shared.b64 %rd1, [bar], 2;",
            "more than are pending",
        ),
        ("@%p9 mbarrier.init.shared.b64 [bar], 1; @%p9 mbarrier.expect_tx.shared.b64 [bar], 1048576;", "tx-count"),
        (
            "@%p9 mbarrier.init.shared.b64 [bar], 1; @%p9 st.shared.u32 [bar], 0; "
            "@%p9 mbarrier.arrive.shared.b64 _, [bar];",
            "overwritten",
        ),
        (
            "@%p9 mbarrier.init.shared.b64 [bar], 1; @%p9 mbarrier.arrive.noComplete.shared.b64 %rd1, [bar], 1;",
            "noComplete",
        ),
        (
            "@%p9 mbarrier.init.shared.b64 [bar], 1; @%p9 mbarrier.inval.shared.b64 [bar]; "
            "@%p9 mbarrier.arrive.shared.b64 _, [bar];",
            "not initialised",
        ),
    ],
)
def test_mbarrier_misuse(body, message):
    with pytest.raises(BarrierMisuse, match=message):
        lanes(f"{BARRIER} setp.eq.u32 %p9, %lane_base, 0; {body} mov.u32 %r70, 0;")


def test_misaligned_barrier():
    with pytest.raises(Misaligned, match="multiple of 8"):
        lanes(f"{BARRIER} mbarrier.init.shared.b64 [bar+4], 1;")


def test_memory_is_reusable_after_inval():
    got = lanes(f"""{BARRIER} setp.eq.u32 %p9, %lane_base, 0; mov.u32 %r70, 0; @!%p9 bra END;
        mbarrier.init.shared.b64 [bar], 1; mbarrier.inval.shared.b64 [bar]; st.shared.u64 [bar], 7;
        mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.shared.b64 _, [bar];
        mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; selp.u32 %r70, 1, 0, %p1; END: bar.warp.sync -1;""")[0]
    assert got[0] == 1


def test_deadlock_names_barrier_phase_and_line():
    with pytest.raises(Deadlock) as caught:
        lanes(f"""{BARRIER} {INIT.format(n=5)} @%p9 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 12;
            bar.warp.sync -1;
            {wait("W", "bar", "0")}""")
    message = str(caught.value)
    assert "CTA (0, 0, 0) rank 0 warp 0 lanes 0xffffffff" in message
    assert "waits for parity 0 of mbarrier CTA 0 shared+0x400 (phase 0, 4 of 5 arrivals pending, tx 12)" in message
    assert "mbarrier.try_wait.parity.shared::cta.b64" in message


@pytest.mark.parametrize(
    "instruction",
    [
        "mbarrier.try_wait.parity.shared::cluster.b64 %p1, [bar], 0;",
        "mbarrier.init.shared.b32 [bar], 1;",
        "mbarrier.arrive.shared::cluster.b64 %rd1, [bar];",
        "bar.sync.foo 1;",
        "vote.sync.ballot.pred %p1, %p2, -1;",
        "fence.proxy.nonsense;",
        "setmaxnreg.inc.sync.aligned.u32 23;",
        "elect.sync %p1, -1;",
        "barrier.cluster.arrive.seq;",
        "shfl.idx.b32 %r1, %r2, 0, 31;",
    ],
)
def test_unknown_forms_are_errors(instruction):
    with pytest.raises(UnsupportedInstruction):
        lanes(f"{BARRIER} {instruction}")


def test_fences_and_hints_are_accepted():
    got = lanes("""fence.acq_rel.gpu; fence.sc.cta; membar.gl; fence.proxy.async; fence.proxy.async.shared::cta;
        fence.mbarrier_init.release.cluster; griddepcontrol.wait; griddepcontrol.launch_dependents; nanosleep.u32 20;
        setmaxnreg.dec.sync.aligned.u32 40; mov.u32 %r70, 1;""")[0]
    assert (got == 1).all()
