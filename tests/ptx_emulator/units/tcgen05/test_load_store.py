"""Tensor Memory from PTX: allocation, tcgen05.ld and .st."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import Deadlock, OutOfBounds, TmemError, UnsupportedInstruction
from ptx_emulator.units.tcgen05 import layout as tl

from ...helpers import ORDERS, aligned, kernel, pointer, run

POISON = 0xFFFFFFFF
ALLOC = """
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    shr.u32 %r2, %r0, 5;
    setp.ne.u32 %p0, %r2, 0;
    @%p0 bra ALLOCATED;
    tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], {columns};
    tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
ALLOCATED:
    bar.sync 0;
    ld.shared.b32 %r3, [%r1];
    and.b32 %r4, %r2, 3;
    shl.b32 %r4, %r4, 21;
    add.u32 %r5, %r3, %r4;
"""
FREE = """
    bar.sync 0;
    @%p0 bra FREED;
    tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r3, {columns};
FREED:
"""


def registers(first, count):
    return "{" + ", ".join(f"%r{first + i}" for i in range(count)) + "}"


def fill(columns):
    """Every cell of the first `columns` becomes lane << 16 | column."""
    lines = ["and.b32 %r6, %r0, 127;", "shl.b32 %r6, %r6, 16;"]
    for column in range(columns):
        lines += [
            f"or.b32 %r7, %r6, {column};",
            f"add.u32 %r8, %r5, {column};",
            "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r8], {%r7};",
        ]
    return "\n".join(lines + ["tcgen05.wait::st.sync.aligned;", "bar.sync 0;"])


def write_registers(first, count):
    """out[thread, i] = register first + i."""
    lines = ["ld.param.u64 %rd1, [out];", f"mul.wide.u32 %rd2, %r0, {4 * count};", "add.u64 %rd1, %rd1, %rd2;"]
    lines += [f"st.global.b32 [%rd1+{4 * i}], %r{first + i};" for i in range(count)]
    return "\n".join(lines)


def program(body, columns=64):
    return kernel(".param .u64 out", ALLOC.format(columns=columns) + body + FREE.format(columns=columns))


def execute(ptx, words, order="in_order", **options):
    out = aligned(words * 4, np.uint32)
    run(ptx, [pointer(out)], [out], order=order, **options)
    return out


SHAPES = [("32x32b", 8), ("16x64b", 8), ("16x128b", 4), ("16x256b", 2), ("16x32bx2", 4)]


@pytest.mark.parametrize("shape,repeat", SHAPES)
@pytest.mark.parametrize("half", [0, 16])
def test_load_shapes(shape, repeat, half):
    if shape == "32x32b" and half:
        half = 0
    count = tl.LOAD_SHAPES[shape][0] * repeat
    split = ", 20" if shape == "16x32bx2" else ""
    body = (
        fill(64)
        + f"""
    add.u32 %r9, %r5, {(half << 16) + 5};
    tcgen05.ld.sync.aligned.{shape}.x{repeat}.b32 {registers(16, count)}, [%r9]{split};
    tcgen05.wait::ld.sync.aligned;
    """
        + write_registers(16, count)
    )
    out = execute(program(body), 128 * count).reshape(4, 32, count)
    lane, column = tl.fragment_map(shape, repeat, 20)
    for warp in range(4):
        expected = (32 * warp + half + lane << 16 | column + 5).T
        np.testing.assert_array_equal(out[warp], expected)


@pytest.mark.parametrize("shape,repeat", SHAPES)
@pytest.mark.parametrize("order", ORDERS)
def test_store_shapes(shape, repeat, order):
    """Register i of thread t holds t << 8 | i; reading every cell back tells where it went."""
    count = tl.LOAD_SHAPES[shape][0] * repeat
    operands = ("[%r5], 20," if shape == "16x32bx2" else "[%r5],") + " " + registers(16, count)
    body = "and.b32 %r6, %r0, 31;\nshl.b32 %r6, %r6, 8;\n"
    body += "\n".join(f"or.b32 %r{16 + i}, %r6, {i};" for i in range(count))
    body += f"""
    tcgen05.st.sync.aligned.{shape}.x{repeat}.b32 {operands};
    tcgen05.wait::st.sync.aligned;
    tcgen05.ld.sync.aligned.32x32b.x32.b32 {registers(100, 32)}, [%r5];
    tcgen05.wait::ld.sync.aligned;
    """ + write_registers(100, 32)
    out = execute(program(body), 128 * 32, order).reshape(4, 32, 32)
    expected = np.full((32, 32), POISON, np.uint32)
    lane, column = tl.fragment_map(shape, repeat, 20)
    expected[lane, column] = np.arange(32) << 8 | np.arange(count)[:, None]
    for warp in range(4):
        np.testing.assert_array_equal(out[warp], expected)


def test_the_quarter_may_be_left_out_of_the_address():
    """A warp reaches its own quarter whether the address names it or says 0."""
    body = (
        fill(1)
        + """
    tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r16}, [%r3];
    add.u32 %r8, %r3, 0x100000;
    tcgen05.ld.sync.aligned.16x32bx2.x1.b32 {%r17}, [%r8], 0;
    tcgen05.wait::ld.sync.aligned;
    """
        + write_registers(16, 2)
    )
    out = execute(program(body), 128 * 2).reshape(128, 2)
    thread = np.arange(128)
    np.testing.assert_array_equal(out[:, 0], thread << 16)
    np.testing.assert_array_equal(out[:, 1], (thread // 32 * 32 + 16 + thread % 16) << 16)


def test_pack_and_unpack():
    """.unpack::16b puts the halves of a register into the low halves of two columns; .pack::16b takes them back."""
    body = """
    mov.u32 %r16, 0x11112222;
    mov.u32 %r17, 0x33334444;
    tcgen05.st.sync.aligned.32x32b.x2.unpack::16b.b32 [%r5], {%r16, %r17};
    tcgen05.wait::st.sync.aligned;
    tcgen05.ld.sync.aligned.32x32b.x4.b32 {%r20, %r21, %r22, %r23}, [%r5];
    tcgen05.ld.sync.aligned.32x32b.x2.pack::16b.b32 {%r24, %r25}, [%r5];
    tcgen05.wait::ld.sync.aligned;
    """ + write_registers(20, 6)
    out = execute(program(body), 128 * 6).reshape(128, 6)
    assert (out == [0x2222, 0x1111, 0x4444, 0x3333, 0x11112222, 0x33334444]).all()


def test_missing_wait_shows_when_stores_are_late():
    body = """
    mov.u32 %r16, 7;
    tcgen05.st.sync.aligned.32x32b.x1.b32 [%r5], {%r16};
    tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r17}, [%r5];
    tcgen05.wait::ld.sync.aligned;
    tcgen05.wait::st.sync.aligned;
    """ + write_registers(17, 1)
    assert (execute(program(body), 128, "late") == POISON).all()
    assert (execute(program(body), 128, "in_order") == 7).all()


LOAD_ONE = "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r16}, [%r8];"


@pytest.mark.parametrize(
    "body,error,named",
    [
        ("add.u32 %r8, %r5, 64;" + LOAD_ONE, TmemError, "columns 64 to 64"),
        (
            "add.u32 %r8, %r5, 480;" + LOAD_ONE.replace("x1.b32 {%r16}", "x64.b32 " + registers(16, 64)),
            TmemError,
            "columns 480",
        ),
        ("xor.b32 %r8, %r5, 0x400000;" + LOAD_ONE, TmemError, r"lane \d+ in the address: warp \d may use"),
        ("add.u32 %r8, %r5, 0x100000;" + LOAD_ONE, TmemError, "lane (16|48|80|112) in"),
        (LOAD_ONE.replace("%r8", "%r5").replace("ld.", "ld.red."), UnsupportedInstruction, "red"),
        (LOAD_ONE.replace("%r8", "%r5").replace("32x32b", "64x32b"), UnsupportedInstruction, "64x32b"),
        (LOAD_ONE.replace("%r8", "%r5").replace(".x1", ".x3"), UnsupportedInstruction, "x3"),
        (LOAD_ONE.replace("%r8", "%r5").replace(".x1", ".x2"), UnsupportedInstruction, "1 registers"),
    ],
)
def test_access_errors(body, error, named):
    with pytest.raises(error, match=named) as caught:
        execute(program(body), 32)
    assert "tcgen05.ld" in caught.value.text


def alloc_only(body):
    return kernel(".param .u64 out", "mov.u32 %r0, %tid.x;\nmov.u32 %r1, smem;\nshr.u32 %r2, %r0, 5;\n" + body)


def alloc(columns, offset=0):
    return f"tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1+{offset}], {columns};\n"


def dealloc(columns, register="%r3"):
    return f"tcgen05.dealloc.cta_group::1.sync.aligned.b32 {register}, {columns};\n"


READ = "ld.shared.b32 %r3, [%r1];\n"


@pytest.mark.parametrize(
    "body,named",
    [
        (alloc(32), "still allocated"),
        (alloc(48), "power of two"),
        (alloc(16), "power of two"),
        (alloc(64) + READ + dealloc(32), "dealloc of 32"),
        (alloc(32) + alloc(64), "must not increase"),
        ("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" + alloc(32), "relinquish"),
        (alloc(64) + READ + dealloc(64) + dealloc(64), "allocated are none"),
    ],
)
def test_allocation_errors(body, named):
    with pytest.raises(TmemError, match=named):
        execute(alloc_only(body), 1, block=(32, 1, 1))


def test_allocations_do_not_overlap():
    body = alloc(256) + alloc(128, 4) + alloc(128, 8)
    body += "\n".join(f"ld.shared.b32 %r{16 + i}, [%r1+{4 * i}];" for i in range(3))
    body += write_registers(16, 3)
    body += dealloc(128, "%r17") + dealloc(256, "%r16") + dealloc(128, "%r18")
    out = execute(alloc_only(body), 96, block=(32, 1, 1)).reshape(32, 3)
    starts, sizes = sorted(zip(out[0], (256, 128, 128), strict=True)), 0
    for start, size in starts:
        assert start == sizes
        sizes += size


def test_allocation_waits_for_columns():
    """Two warps take all columns in turn; the second gets them when the first gives them back."""
    body = "shl.b32 %r4, %r2, 2;\nadd.u32 %r1, %r1, %r4;\n" + alloc(512) + READ + dealloc(512) + write_registers(3, 1)
    assert (execute(alloc_only(body), 64, block=(64, 1, 1)) == 0).all()
    body = alloc(512) + "bar.sync 0;\n" + READ + dealloc(512)
    with pytest.raises(Deadlock, match="tcgen05.alloc of 512 columns"):
        execute(alloc_only(body), 1, block=(64, 1, 1))


@pytest.mark.parametrize("order", ORDERS)
def test_pair_allocates_together(order):
    body = """
    mov.u32 %r5, %cluster_ctarank;
    setp.eq.u32 %p0, %r5, 0;
    tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%r1], 128;
    tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%r1+4], 64;
    tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;
    ld.shared.b32 %r3, [%r1];
    ld.shared.b32 %r4, [%r1+4];
    shl.b32 %r6, %r5, 16;
    or.b32 %r7, %r6, %r3;
    or.b32 %r8, %r6, %r4;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    tcgen05.dealloc.cta_group::2.sync.aligned.b32 %r3, 128;
    tcgen05.dealloc.cta_group::2.sync.aligned.b32 %r4, 64;
    ld.param.u64 %rd1, [out];
    mul.wide.u32 %rd2, %r5, 8;
    add.u64 %rd1, %rd1, %rd2;
    st.global.b32 [%rd1], %r7;
    st.global.b32 [%rd1+4], %r8;
    """
    out = execute(alloc_only(body), 4, order, grid=(2, 1, 1), cluster=(2, 1, 1), block=(32, 1, 1))
    np.testing.assert_array_equal(out, [0, 128, 1 << 16, 1 << 16 | 128])
    alone = alloc_only("""
    mov.u32 %r5, %cluster_ctarank;
    setp.eq.u32 %p0, %r5, 0;
    @%p0 tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%r1], 128;""")
    with pytest.raises(Deadlock, match="has not joined"):
        execute(alone, 4, grid=(2, 1, 1), cluster=(2, 1, 1), block=(32, 1, 1))
    with pytest.raises(OutOfBounds, match="no peer"):
        execute(alone, 4, block=(32, 1, 1))
