"""Loads, stores, atomics and address spaces."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import Misaligned, OutOfBounds, UnsupportedInstruction

from ...lanes import aligned, compute_one, program, run


def test_every_element_size_is_loaded_with_its_extension():
    x = np.random.default_rng(0).integers(0, 256, 64 * 8, np.uint8)
    outs = [np.zeros(64, t) for t in (np.uint32, np.int32, np.uint32, np.int32, np.uint64, np.int64, np.uint16)]
    body = ["mad.wide.u32 %rd0, %thread, 8, %ptr0;"]
    loads = [
        "ld.global.u8 %r1",
        "ld.global.s8 %r1",
        "ld.global.u16 %r1",
        "ld.global.s16 %r1",
        "ld.global.u32 %rd1",
        "ld.global.s32 %rd1",
        "ld.global.s8 %rs1",
    ]
    for k, (load, out) in enumerate(zip(loads, outs, strict=True)):
        register = load.split()[1]
        body.append(f"{load}, [%rd0];")
        body.append(f"mad.wide.u32 %rd2, %thread, {out.itemsize}, %ptr{k + 1};")
        body.append(f"st.global.b{8 * out.itemsize} [%rd2], {register};")
    run(program("\n".join(body), 8), [x, *outs], block=(64,))
    first = x.reshape(64, 8)
    halves, words = first[:, :2].copy().view(np.uint16)[:, 0], first[:, :4].copy().view(np.uint32)[:, 0]
    expected = [
        first[:, 0],
        first[:, 0].view(np.int8),
        halves,
        halves.view(np.int16),
        words,
        words.view(np.int32),
        first[:, 0].view(np.int8).astype(np.int16).view(np.uint16),
    ]
    for out, wanted in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize(
    "vector, kind, count",
    [("v2", "b8", 2), ("v4", "b16", 4), ("v4", "b32", 4), ("v8", "b32", 8), ("v2", "b64", 2), ("v4", "b64", 4)],
)
def test_vectors_move_consecutive_elements(vector, kind, count):
    size = int(kind[1:]) // 8
    x, y = aligned(32 * size * count), aligned(32 * size * count)
    x[:] = np.random.default_rng(1).integers(0, 256, x.size, np.uint8)
    register = {1: "%rs", 2: "%rs", 4: "%r", 8: "%rd"}[size]
    names = ", ".join(f"{register}{10 + i}" for i in range(count))
    backwards = ", ".join(f"{register}{10 + i}" for i in reversed(range(count)))
    run(
        program(
            f"""mad.wide.u32 %rd0, %thread, {size * count}, %ptr0;
        mad.wide.u32 %rd1, %thread, {size * count}, %ptr1;
        ld.global.L1::no_allocate.{vector}.{kind} {{{names}}}, [%rd0];
        st.global.{vector}.{kind} [%rd1], {{{backwards}}};""",
            2,
        ),
        [x, y],
    )
    np.testing.assert_array_equal(y.reshape(32, count, size), x.reshape(32, count, size)[:, ::-1])


def test_b128_sinks_offsets_and_qualifiers():
    x = np.arange(32 * 4, dtype=np.uint32)
    y = np.zeros(32 * 4, np.uint32)
    z = np.zeros(32, np.uint32)
    run(
        program(
            """mad.wide.u32 %rd0, %thread, 16, %ptr0; mad.wide.u32 %rd1, %thread, 16, %ptr1;
        ld.relaxed.gpu.global.L2::cache_hint.b128 %q1, [%rd0], %rd5; st.global.b128 [%rd1], %q1;
        ld.acquire.sys.global.v4.b32 {_, _, %r1, _}, [%rd0]; ld.global.nc.b32 %r2, [%rd0+12];
        add.u32 %r1, %r1, %r2; mad.wide.u32 %rd2, %thread, 4, %ptr2; add.u64 %rd2, %rd2, 8;
        st.volatile.global.b32 [%rd2+-8], %r1;""",
            3,
        ),
        [x, y, z],
    )
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(z, x[2::4] + x[3::4])


SHARED = ".shared .align 16 .b8 buf[512];"


def test_shared_memory_static_and_dynamic():
    """Static variables start at offset 0x400; dynamic shared memory follows at its own alignment."""
    y = np.zeros(32 * 3, np.uint32)
    run(
        program(
            """.shared .align 16 .b8 mine[132];
        mov.u32 %r1, mine; mov.u32 %r2, dyn; mad.lo.u32 %r3, %thread, 4, %r1; mad.lo.u32 %r4, %thread, 4, %r2;
        mul.lo.u32 %r5, %thread, 7; st.shared.u32 [%r3], %r5; st.shared::cta.u32 [%r4+128], %r1;
        bar.sync 0;
        xor.b32 %r6, %thread, 31; mad.lo.u32 %r6, %r6, 4, %r1; ld.shared.u32 %r7, [%r6];
        ld.shared.u32 %r8, [mine+8];
        mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1], %r7; st.global.u32 [%rd1+128], %r8;
        st.global.u32 [%rd1+256], %r2;""",
            1,
            module=".extern .shared .align 256 .b8 dyn[];",
        ),
        [y],
        shared_bytes=512,
    )
    np.testing.assert_array_equal(y[:32], 7 * np.arange(31, -1, -1))
    assert (y[32:64] == 14).all()
    assert (y[64:] == 0x500).all()


def test_shared_memory_starts_poisoned_in_every_cta():
    y = np.zeros(64, np.uint32)
    run(
        program(
            f"""{SHARED} mov.u32 %r1, buf; mad.lo.u32 %r1, %lane_base, 4, %r1; ld.shared.u32 %r2, [%r1];
        st.shared.u32 [%r1], 5; mad.wide.u32 %rd1, %thread, 4, %ptr0;
        st.global.u32 [%rd1], %r2;""",
            1,
        ),
        [y],
        grid=(2,),
    )
    assert (y == 0xFFFFFFFF).all()


def test_generic_addresses_reach_shared_local_and_global_memory():
    y = np.zeros(32 * 4, np.uint32)
    run(
        program(
            f"""{SHARED} .local .align 8 .b8 stack[64];
        mov.u64 %rd1, buf; cvta.shared.u64 %rd2, %rd1; mad.wide.u32 %rd3, %thread, 4, %rd2; st.u32 [%rd3], %thread;
        cvta.to.shared.u64 %rd4, %rd3; cvt.u32.u64 %r1, %rd4; ld.shared.u32 %r2, [%r1];
        mov.u64 %rd5, stack; cvta.local.u64 %rd6, %rd5; add.u32 %r3, %thread, 100; st.u32 [%rd6+4], %r3;
        ld.local.u32 %r4, [stack+4];
        mad.wide.u32 %rd7, %thread, 16, %ptr0; cvta.to.global.u64 %rd8, %rd7; cvta.global.u64 %rd8, %rd8;
        isspacep.shared %p1, %rd3; isspacep.global %p2, %rd8; isspacep.local %p3, %rd6; isspacep.shared %p4, %rd8;
        selp.u32 %r5, 1, 0, %p1; selp.u32 %r6, 2, 0, %p2; selp.u32 %r7, 4, 0, %p3; selp.u32 %r8, 8, 0, %p4;
        add.u32 %r5, %r5, %r6; add.u32 %r5, %r5, %r7; add.u32 %r5, %r5, %r8;
        st.v4.u32 [%rd8], {{%r2, %r4, %r5, %r5}};""",
            1,
        ),
        [y],
    )
    result = y.reshape(32, 4)
    np.testing.assert_array_equal(result[:, 0], np.arange(32))
    np.testing.assert_array_equal(result[:, 1], 100 + np.arange(32))
    assert (result[:, 2] == 7).all()


def test_parameters_are_addressable_and_read_only():
    y = np.zeros(32, np.uint64)
    body = """mov.b64 %rd1, p0; cvta.param.u64 %rd2, %rd1; ld.u64 %rd3, [%rd2]; ld.param.v2.u32 {%r1, %r2}, [p0];
        mov.b64 %rd4, {%r1, %r2}; xor.b64 %rd5, %rd3, %rd4; mad.wide.u32 %rd6, %thread, 8, %ptr0;
        add.u64 %rd5, %rd5, 9;
        st.global.u64 [%rd6], %rd5;"""
    run(program(body, 1), [y])
    assert (y == 9).all()
    with pytest.raises(OutOfBounds, match="read-only"):
        run(program("mov.b64 %rd1, p0; st.u64 [%rd1], %rd1;", 1), [y])


def test_constants_and_globals_hold_their_initial_values():
    y = np.zeros(32 * 2, np.uint32)
    module = """.const .align 4 .b32 table[4] = {10, 0x14, -1, 40};
        .global .align 4 .f32 number = 1.5; .global .align 8 .b8 scratch[16];"""
    run(
        program(
            """ld.const.u32 %r1, [table+4]; ld.global.b32 %r2, [number]; mov.u64 %rd1, scratch;
        st.global.u32 [%rd1+8], %r1; ld.global.u32 %r3, [scratch+8]; ld.global.u32 %r4, [scratch];
        add.u32 %r3, %r3, %r4; mad.wide.u32 %rd2, %thread, 8, %ptr0; st.global.v2.u32 [%rd2], {%r3, %r2};""",
            1,
            module=module,
        ),
        [y],
    )
    assert y[0::2].tolist() == [20] * 32
    assert y[1::2].tolist() == [0x3FC00000] * 32


def test_atomics_of_a_warp_on_one_word():
    """Every lane's operation takes effect once; the values returned are the partial results in lane order."""
    cell = np.array([100, 5, 0xF0, 0, 0, 7, 3], np.uint32)
    y = np.zeros(32, np.uint32)
    run(
        program(
            """atom.global.add.u32 %r1, [%ptr0], 1; mad.wide.u32 %rd1, %thread, 4, %ptr1;
        st.global.u32 [%rd1], %r1;
        red.global.max.u32 [%ptr0+4], %thread; atom.global.and.b32 %r2, [%ptr0+8], 0x3C;
        red.relaxed.gpu.global.or.b32 [%ptr0+12], %thread; red.global.xor.b32 [%ptr0+16], %thread;
        atom.global.inc.u32 %r3, [%ptr0+20], 9; atom.global.dec.u32 %r4, [%ptr0+24], 5;""",
            2,
        ),
        [cell, y],
    )
    xor = int(np.bitwise_xor.reduce(np.arange(32)))
    inc, dec = 7, 3
    for _ in range(32):
        inc = 0 if inc >= 9 else inc + 1
        dec = 5 if dec == 0 or dec > 5 else dec - 1
    assert cell.tolist() == [132, 31, 0x30, 31, xor, inc, dec]
    np.testing.assert_array_equal(y, 100 + np.arange(32))


def test_atomic_exchange_compare_and_signed_minimum():
    cell = np.array([1, 0, 5], np.uint32)
    wide = np.array([2**40, 2**63], np.uint64)
    y = np.zeros(32 * 2, np.uint32)
    run(
        program(
            """atom.global.exch.b32 %r1, [%ptr0], %thread; atom.global.cas.b32 %r2, [%ptr0+4], %thread, 77;
        add.s32 %r3, %thread, -3; red.global.min.s32 [%ptr0+8], %r3; atom.global.add.u64 %rd1, [%ptr1], 3;
        red.global.max.s64 [%ptr1+8], -5; mad.wide.u32 %rd2, %thread, 8, %ptr2;
        st.global.v2.u32 [%rd2], {%r1, %r2};""",
            3,
        ),
        [cell, wide, y],
    )
    assert cell.tolist() == [31, 77, 2**32 - 3]
    assert wide.tolist() == [2**40 + 96, 2**64 - 5]
    assert y[0::2].tolist() == [1, *range(31)]
    assert y[1::2].tolist() == [0] + [77] * 31


def test_floating_atomics():
    cell = np.array([0.5, 0, 0, 0], np.float32)
    double = np.array([1.25])
    half = np.array([1.0, 2.0], np.float16)
    run(
        program(
            """cvt.rn.f32.u32 %r1, %thread; red.global.add.f32 [%ptr0], %r1;
        red.global.v2.f32.add [%ptr0+8], {%r1, %r1};""".replace("v2.f32.add", "add.v2.f32")
            + """cvt.rn.f64.u32 %rd1, %thread; atom.global.add.f64 %rd2, [%ptr1], %rd1;
        mov.b32 %r2, 0x3C003C00; red.global.add.noftz.f16x2 [%ptr2], %r2;""",
            3,
        ),
        [cell, double, half],
    )
    assert cell.tolist() == [496.5, 0, 496, 496]
    assert double[0] == 497.25
    assert half.tolist() == [33.0, 34.0]


def test_shared_atomics_between_ctas_of_a_cluster():
    y = np.zeros(4, np.uint32)
    run(
        program(
            f"""{SHARED} mov.u32 %r1, buf; setp.eq.u32 %p1, %lane_base, 0; @%p1 st.shared.u32 [%r1], 0;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        mov.u32 %r2, %cluster_ctarank; add.u32 %r3, %r2, 1; and.b32 %r3, %r3, 3;
        mapa.shared::cluster.u32 %r4, %r1, %r3; red.shared::cluster.add.u32 [%r4], %r2;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        getctarank.shared::cluster.u32 %r6, %r4; mad.lo.u32 %r6, %r6, 1000, 0;
        ld.shared.u32 %r5, [%r1]; add.u32 %r5, %r5, %r6; mad.wide.u32 %rd1, %r2, 4, %ptr0; st.global.u32 [%rd1], %r5;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;""",
            1,
        ),
        [y],
        grid=(4,),
        cluster=(4,),
    )
    assert y.tolist() == [3 * 32 + 1000, 2000, 32 + 3000, 64]


def test_generic_mapa_reads_the_neighbours_shared_memory():
    y = np.zeros(2, np.uint32)
    run(
        program(
            f"""{SHARED} mov.u32 %r1, buf; mov.u32 %r2, %cluster_ctarank; add.u32 %r3, %r2, 40;
        st.shared.u32 [%r1], %r3; mov.u64 %rd1, buf; cvta.shared.u64 %rd1, %rd1; xor.b32 %r4, %r2, 1;
        barrier.cluster.arrive; barrier.cluster.wait;
        mapa.u64 %rd2, %rd1, %r4; ld.u32 %r5, [%rd2]; getctarank.u64 %r6, %rd2; mad.lo.u32 %r5, %r6, 100, %r5;
        mad.wide.u32 %rd3, %r2, 4, %ptr0; st.global.u32 [%rd3], %r5;
        barrier.cluster.arrive; barrier.cluster.wait;""",
            1,
        ),
        [y],
        grid=(2,),
        cluster=(2,),
    )
    assert y.tolist() == [141, 40]


@pytest.mark.parametrize(
    "access, error, message",
    [
        ("ld.global.u32 %r1, [%ptr0+128];", OutOfBounds, r"0 bytes past the end of buffers\[0\]"),
        ("ld.global.u32 %r1, [%ptr0+-4];", OutOfBounds, r"4 bytes before buffers\[0\]"),
        ("ld.global.v2.u32 {%r1, %r2}, [%ptr0+124];", (OutOfBounds, Misaligned), "lane"),
        ("ld.global.u32 %r1, [%ptr0+2];", Misaligned, "multiple of 4"),
        ("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%ptr0+8];", Misaligned, "multiple of 16"),
        ("st.global.u32 [0], %r1;", OutOfBounds, "0x0"),
        ("ld.shared.u32 %r1, [0x10];", OutOfBounds, "shared address 0x10"),
        ("ld.shared.u32 %r1, [0x10000];", OutOfBounds, "shared"),
        ("ld.shared.u32 %r1, [0x1000400];", OutOfBounds, "names CTA 1"),
        ("ld.shared::cluster.u32 %r1, [0x2000400];", OutOfBounds, "names CTA 2"),
        ("ld.local.u32 %r1, [64];", OutOfBounds, "local"),
        ("atom.global.add.u32 %r1, [%ptr0+130], 1;", (OutOfBounds, Misaligned), "lane"),
    ],
)
def test_bad_addresses_name_the_access(access, error, message):
    buffer = np.zeros(32, np.uint32)
    ptx = program(f"{SHARED}\n{access}", 1)
    with pytest.raises(error, match=message) as caught:
        run(ptx, [buffer])
    assert ptx.split("\n")[caught.value.line - 1].strip() == access
    assert "lane 0" in str(caught.value)


def test_only_the_offending_lane_is_named():
    buffer = np.zeros(20, np.uint32)
    with pytest.raises(OutOfBounds, match="lane 20"):
        run(program("mad.wide.u32 %rd1, %thread, 4, %ptr0; ld.global.u32 %r1, [%rd1];", 1), [buffer])
    # Lanes that a guard masks off may hold any address.
    run(
        program(
            "mad.wide.u32 %rd1, %thread, 4, %ptr0; setp.lt.u32 %p1, %thread, 20; @%p1 ld.global.u32 %r1, [%rd1];", 1
        ),
        [buffer],
    )


@pytest.mark.parametrize(
    "instruction",
    [
        "ld.global.v3.b32 {%r1, %r2, %r3}, [%ptr0];",
        "ld.global.L9::x.b32 %r1, [%ptr0];",
        "ld.global.b64 %r1, [%ptr0];",
        "ld.global.b32 %r1, [%r2];",
        "atom.global.nand.b32 %r1, [%ptr0], 1;",
        "st.param.b32 [p0], %r1;",
        "ld.global.v2.b32 {%r1, %rd2}, [%ptr0];",
        "ld.shared.b32 %r1, [p0];",
    ],
)
def test_unknown_forms_are_errors(instruction):
    with pytest.raises(UnsupportedInstruction):
        run(program(instruction, 1), [np.zeros(32, np.uint32)])


def test_cache_hints_change_nothing():
    x = np.arange(64, dtype=np.uint32)
    got = compute_one(
        """createpolicy.fractional.L2::evict_first.b64 %rd1, 1.0; prefetch.global.L2 [%ptr0];
        ld.global.ca.L2::128B.b32 %o0, [%ptr0]; ld.global.L1::evict_last.L2::128B.b32 %r3, [%ptr0];
        add.u32 %o0, %o0, %r3;""",
        [x],
        np.uint32,
    )
    np.testing.assert_array_equal(got, 2 * x)
