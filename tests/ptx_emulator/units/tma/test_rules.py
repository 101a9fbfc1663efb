"""TMA and bulk copies, executed from PTX, against element-by-element Python."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import (
    BarrierMisuse,
    Deadlock,
    EmulationError,
    Misaligned,
    OutOfBounds,
    UnsupportedInstruction,
)
from ptx_emulator.units.tma.tensormap import TensorMap

from ...helpers import ORDERS, aligned, dump, kernel, pointer, random_bytes, run, wait
from ...models import expected_box, swizzled

START = 0x400 + 1024  # absolute offset of the data: dynamic shared memory begins at 0x400, the barrier is there


def load_kernel(
    rank,
    coordinates,
    nbytes,
    *,
    dump_bytes,
    modifiers="",
    tail="",
    data=1024,
    expect=None,
    mode="",
    space="shared::cluster",
    waits=True,
):
    """Thread 0 loads one box to smem + `data`; all wait; then `dump_bytes` from smem + 1024 go to `out`."""
    expect = nbytes if expect is None else expect
    return kernel(
        ".param .align 64 .b8 map[128], .param .u64 out",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    ld.param.u64 %rd1, [out];
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {expect};
    mov.b64 %rd0, map;
    cvta.param.u64 %rd0, %rd0;
    cp.async.bulk.tensor.{rank}d.{space}.global{mode}.mbarrier::complete_tx::bytes{modifiers} [%r1+{data}], \
[%rd0, {{{", ".join(map(str, coordinates))}}}], [%r1]{tail};
READY:
    bar.sync 0;
    add.u32 %r2, %r1, 1024;
    {wait("%r1") if waits else ""}
    {dump("%rd1", "%r2", dump_bytes, 128)}""",
    )


def load(tensor, coordinates, order="in_order", dump_bytes=None, buffers=(), **options):
    boxes = 4 if "gather4" in options.get("mode", "") else 1
    nbytes = tensor.box_bytes * boxes
    dump_bytes = dump_bytes or -(-nbytes // 1024) * 1024
    out = aligned(dump_bytes)
    ptx = load_kernel(tensor.rank, coordinates, nbytes, dump_bytes=dump_bytes, **options)
    report = run(ptx, [tensor.to_bytes(), pointer(out)], [out, *buffers], order=order, seed=3)
    return out, report


def shift(tensor, data):
    fields = {
        f: getattr(tensor, f)
        for f in ("element_type", "dims", "strides", "box", "element_strides", "swizzle", "oob_fill")
    }
    return TensorMap(address=data.ctypes.data, **fields)


CASES = [
    (TensorMap(0, "u8", (100,), (), (64,)), (40,)),
    (TensorMap(0, "bf16", (64, 20), (160,), (64, 8), swizzle="128B"), (0, 15)),
    (TensorMap(0, "bf16", (70, 20), (160,), (64, 8), swizzle="128B"), (-3, -2)),
    (TensorMap(0, "f16", (40, 9), (96,), (32, 5), swizzle="64B"), (3, 1)),
    (TensorMap(0, "f32", (8, 5, 3), (32, 160), (8, 2, 2), swizzle="32B"), (-3, -1, 1)),
    (TensorMap(0, "f16", (48, 6, 5), (96, 576), (8, 4, 3), (1, 2, 3), oob_fill="nan"), (44, 1, 3)),
    (TensorMap(0, "f32", (4, 3, 2, 3), (16, 64, 128), (4, 2, 2, 2)), (2, 2, 1, -1)),
    (TensorMap(0, "u64", (2, 3, 2, 2, 3), (16, 48, 96, 192), (2, 2, 2, 1, 2)), (1, 2, 1, 1, 2)),
]


@pytest.mark.parametrize("tensor,coordinates", CASES)
def test_load(tensor, coordinates):
    data = random_bytes(4096, 1)
    out, report = load(shift(tensor, data), coordinates, buffers=[data])
    np.testing.assert_array_equal(out, expected_box(data, tensor, coordinates, START, out.size, START))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "space,modifiers",
    [("shared::cluster", ""), ("shared::cta", ".L2::cache_hint"), ("shared::cluster", ".cta_group::1")],
)
def test_load_in_any_order(order, space, modifiers):
    data = random_bytes(4096, 2)
    tensor = TensorMap(data.ctypes.data, "bf16", (64, 20), (160,), (64, 8), swizzle="128B")
    tail = ", %rd5" if "hint" in modifiers else ""
    out, _ = load(tensor, (0, 3), order, buffers=[data], space=space, modifiers=modifiers, tail=tail)
    np.testing.assert_array_equal(out, expected_box(data, tensor, (0, 3), START, out.size, START))


def test_missing_wait_shows_when_completion_is_late():
    """The same program without its wait reads poison."""
    data = random_bytes(4096, 3)
    tensor = TensorMap(data.ctypes.data, "bf16", (64, 20), (160,), (64, 8), swizzle="128B")
    out, _ = load(tensor, (0, 3), "late", buffers=[data], waits=False)
    assert (out == 0xFF).all()


def test_gather4():
    data = random_bytes(4096, 4)
    tensor = TensorMap(data.ctypes.data, "bf16", (64, 20), (160,), (64, 1), swizzle="128B")
    rows = (7, 0, 19, 25)
    out, _ = load(tensor, (0, *rows), buffers=[data], mode=".tile::gather4")
    for i, row in enumerate(rows):
        one = expected_box(data, tensor, (0, row), START + 128 * i, 1024, START)
        np.testing.assert_array_equal(out[i * 128 : i * 128 + 128], one[i * 128 : i * 128 + 128])


@pytest.mark.parametrize("order", ORDERS)
def test_scatter4(order):
    """Four rows that lie one after the other in shared memory go to four rows of the tensor; one is out of bounds."""
    data, given = random_bytes(4096, 14), random_bytes(1024, 15)
    before = data.copy()
    tensor = TensorMap(data.ctypes.data, "f32", (40, 20), (160,), (32, 1))
    rows = (7, 0, 19, 25)
    ptx = kernel(
        ".param .align 64 .b8 map[128], .param .u64 given",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    ld.param.u64 %rd1, [given];
    mul.wide.u32 %rd2, %r0, 4;
    add.u64 %rd1, %rd1, %rd2;
    ld.global.b32 %r2, [%rd1];
    mad.lo.u32 %r3, %r0, 4, %r1;
    st.shared.b32 [%r3], %r2;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra DONE;
    mov.b64 %rd0, map;
    cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group \
[%rd0, {{4, {", ".join(map(str, rows))}}}], [%r1];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
DONE:""",
    )
    run(ptx, [tensor.to_bytes(), pointer(given)], [data, given], order=order)
    expected = before[: 20 * 160].reshape(20, 160).copy()
    for i, row in enumerate(rows):
        if row < 20:
            expected[row, 16:144] = given[128 * i : 128 * i + 128]
    np.testing.assert_array_equal(data[: 20 * 160].reshape(20, 160), expected)
    np.testing.assert_array_equal(data[20 * 160 :], before[20 * 160 :])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("coordinates", [(64, 3), (-64, 18), (320, -1)])
def test_packed_nibbles_are_bytes(order, coordinates):
    """b4x16: the same bytes as a map of bytes of half the width; a coordinate counts elements."""
    data = random_bytes(4096, 21)
    tensor = TensorMap(data.ctypes.data, "b4x16", (384, 20), (192,), (128, 4), swizzle="64B")
    as_bytes = TensorMap(data.ctypes.data, "u8", (192, 20), (192,), (64, 4), swizzle="64B")
    out, report = load(tensor, coordinates, order, buffers=[data])
    expected = expected_box(data, as_bytes, (coordinates[0] // 2, coordinates[1]), START, out.size, START)
    np.testing.assert_array_equal(out, expected)
    assert report.counters["tma_load_bytes"] == 256
    with pytest.raises(EmulationError, match="coordinate 65 of b4x16"):
        load(tensor, (65, 3), buffers=[data])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind,size", [("b4x16_p64", 8), ("b6x16_p32", 12)])
@pytest.mark.parametrize("swizzle", ["none", "128B"])
def test_padded_elements(order, kind, size, swizzle):
    """16 elements without gaps become 16 bytes; the padding keeps what was there; the barrier counts none of it."""
    data = aligned(8192, boundary=256)
    data[:] = random_bytes(8192, 22)
    pitch = 2 * 8 * size  # two boxes wide
    tensor = TensorMap(data.ctypes.data, kind, (256, 20), (pitch,), (128, 3), swizzle=swizzle)
    counted = 3 * 8 * size
    out, report = load(tensor, (128, 18), order, buffers=[data], expect=counted)
    expected = np.full(out.size, 0xFF, np.uint8)
    for row in range(3):
        for unit in range(8):
            for i in range(size):
                place = swizzled(START + row * 128 + unit * 16 + i, swizzle) - START
                value = data[(18 + row) * pitch + (8 + unit) * size + i] if row < 2 else 0
                expected[place] = value
    np.testing.assert_array_equal(out, expected)
    assert report.counters["tma_load_bytes"] == counted
    with pytest.raises(EmulationError, match=f"coordinate 64 of {kind}"):
        load(tensor, (64, 0), buffers=[data], expect=counted)


def test_padding_is_not_counted_as_transferred():
    data = aligned(8192, boundary=256)
    tensor = TensorMap(data.ctypes.data, "b4x16_p64", (256, 20), (128,), (128, 3))
    with pytest.raises(Deadlock):
        load(tensor, (0, 0), buffers=[data], expect=tensor.box_bytes)


@pytest.mark.parametrize("order", ORDERS)
def test_tf32_elements_are_rounded(order):
    """To nearest even in the 13 bits that tf32 lacks; a float32 map copies the same words as they are."""
    words = np.array([0x3F801000, 0x3F803000, 0x3F801001, 0x3F800FFF, 0xBF801001, 0x7F800000, 0x7FFFFFFF, 0x7F7FFFFF])
    rounded = np.array([0x3F800000, 0x3F804000, 0x3F802000, 0x3F800000, 0xBF802000, 0x7F800000, 0x7FFFFFFF, 0x7F800000])
    data = aligned(4096)
    data[:32] = words.astype(np.uint32).view(np.uint8)
    for kind, expected in (("tf32", rounded), ("f32", words)):
        tensor = TensorMap(data.ctypes.data, kind, (8,), (), (8,))
        out, _ = load(tensor, (0,), order, buffers=[data])
        np.testing.assert_array_equal(out[:32].view(np.uint32), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_reduction_into_shared_memory(order):
    """CTA 0 adds its words to those of CTA 1, whose mbarrier counts the bytes."""
    out = aligned(2 * 128, np.uint32)
    ptx = kernel(
        ".param .u64 out",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    mov.u32 %r5, %cluster_ctarank;
    mad.lo.u32 %r2, %r0, 4, %r1;
    mad.lo.u32 %r6, %r5, 1000, %r0;
    st.shared.b32 [%r2+1024], %r6;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 128;
READY:
    fence.proxy.async.shared::cta;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    or.b32 %r7, %r0, %r5;
    setp.ne.u32 %p1, %r7, 0;
    @%p1 bra SENT;
    mapa.shared::cluster.u32 %r8, %r1, 1;
    add.u32 %r9, %r8, 1024;
    add.u32 %r10, %r1, 1024;
    cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%r9], [%r10], 128, [%r8];
SENT:
    setp.eq.u32 %p2, %r5, 0;
    @%p2 bra READ;
    {wait("%r1")}
READ:
    ld.shared.b32 %r11, [%r2+1024];
    ld.param.u64 %rd1, [out];
    mad.lo.u32 %r12, %r5, 32, %r0;
    mul.wide.u32 %rd2, %r12, 4;
    add.u64 %rd1, %rd1, %rd2;
    st.global.b32 [%rd1], %r11;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;""",
    )
    run(ptx, [pointer(out)], [out], grid=(2, 1, 1), cluster=(2, 1, 1), block=(32, 1, 1), order=order)
    lane = np.arange(32)
    np.testing.assert_array_equal(out, np.concatenate([lane, 1000 + 2 * lane]))


@pytest.mark.parametrize("order", ORDERS)
def test_multicast_and_pair_barrier(order):
    """CTA 0 sends a box to both CTAs. With .cta_group::2 the barrier of CTA 0 counts both copies; without, each
    CTA's own barrier counts its own."""
    data = random_bytes(4096, 5)
    tensor = TensorMap(data.ctypes.data, "bf16", (64, 16), (128,), (64, 8), swizzle="128B")
    for group, expects in (("", (1024, 1024)), (".cta_group::2", (2048, 0))):
        out = aligned(2 * 1024)
        ptx = kernel(
            ".param .align 64 .b8 map[128], .param .u64 out",
            f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    mov.u32 %r3, %cluster_ctarank;
    ld.param.u64 %rd1, [out];
    mul.wide.u32 %rd2, %r3, 1024;
    add.u64 %rd1, %rd1, %rd2;
    setp.ne.u32 %p0, %r0, 0;
    setp.ne.u32 %p1, %r3, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {expects[1]};
    @!%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {expects[0]};
READY:
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    or.pred %p2, %p0, %p1;
    @%p2 bra SENT;
    mov.b64 %rd0, map;
    cvta.param.u64 %rd0, %rd0;
    mov.u16 %rs1, 3;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster{group} \
[%r1+1024], [%rd0, {{0, 5}}], [%r1], %rs1;
SENT:
    {wait("%r1")}
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    add.u32 %r2, %r1, 1024;
    {dump("%rd1", "%r2", 1024, 128)}""",
        )
        if group:
            ptx = ptx.replace(wait("%r1"), "@%p1 bra SKIP;\n" + wait("%r1") + "SKIP:\n")
        run(ptx, [tensor.to_bytes(), pointer(out)], [out, data], grid=(2, 1, 1), cluster=(2, 1, 1), order=order)
        expected = expected_box(data, tensor, (0, 5), START, 1024, START)
        np.testing.assert_array_equal(out.reshape(2, 1024), [expected, expected])


def store_kernel(instruction, nbytes, waits=True):
    """All threads fill shared memory from `source`; thread 0 stores it with `instruction` and waits."""
    return kernel(
        ".param .align 64 .b8 map[128], .param .u64 source, .param .u64 target",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    shl.b32 %r2, %r0, 2;
FILL:
    setp.ge.u32 %p1, %r2, {nbytes};
    @%p1 bra FILLED;
    cvt.u64.u32 %rd3, %r2;
    add.u64 %rd3, %rd1, %rd3;
    ld.global.b32 %r3, [%rd3];
    add.u32 %r4, %r1, %r2;
    st.shared.b32 [%r4], %r3;
    add.u32 %r2, %r2, 512;
    bra FILL;
FILLED:
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra END;
    mov.b64 %rd0, map;
    cvta.param.u64 %rd0, %rd0;
    {instruction};
    cp.async.bulk.commit_group;
    {"cp.async.bulk.wait_group 0;" if waits else ""}
END:""",
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("coordinates", [(0, 0), (8, 6), (-8, -2)])
def test_store(coordinates, order):
    """Only what lies within the tensor is written, at the swizzled place's element."""
    source, target = random_bytes(1024, 6), random_bytes(160 * 9, 7)
    before = target.copy()
    tensor = TensorMap(target.ctypes.data, "bf16", (70, 9), (160,), (64, 8), swizzle="128B")
    place = ", ".join(map(str, coordinates))
    run(
        store_kernel(f"cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd0, {{{place}}}], [%r1]", 1024),
        [tensor.to_bytes(), pointer(source), pointer(target)],
        [source, target],
        order=order,
    )
    # Loading the result back must give the source again, wherever the tensor has an element.
    again = expected_box(target, tensor, coordinates, 0x400, 1024, 0x400)
    inside = expected_box(np.full(before.size, 1, np.uint8), tensor, coordinates, 0x400, 1024, 0x400) == 1
    np.testing.assert_array_equal(again[inside], source[inside])
    pitch = target.reshape(9, 160)
    rows = slice(max(coordinates[1], 0), coordinates[1] + 8)
    columns = slice(max(coordinates[0], 0) * 2, min(coordinates[0] + 64, 70) * 2)
    restored = pitch.copy()
    restored[rows, columns] = before.reshape(9, 160)[rows, columns]
    np.testing.assert_array_equal(restored.ravel(), before)


REDUCTIONS = [
    ("add", "f32", np.float32),
    ("add", "f16", np.float16),
    ("add", "u32", np.uint32),
    ("min", "s32", np.int32),
    ("max", "u64", np.uint64),
    ("min", "f16", np.float16),
]


@pytest.mark.parametrize("reduction,element_type,dtype", REDUCTIONS)
def test_tensor_reduction(reduction, element_type, dtype):
    rng = np.random.default_rng(8)
    item = np.dtype(dtype).itemsize
    count = 16 * 8
    source, target = aligned(count * item, dtype), aligned(count * item, dtype)
    for array in (source, target):
        array[:] = (rng.standard_normal(count) * 100).astype(np.int64 if item > 2 else dtype).astype(dtype)
    expected = {"add": np.add, "min": np.minimum, "max": np.maximum}[reduction](source, target)
    tensor = TensorMap(target.ctypes.data, element_type, (16, 8), (16 * item,), (16, 8))
    instruction = (
        f"cp.reduce.async.bulk.tensor.2d.global.shared::cta.{reduction}.tile.bulk_group [%rd0, {{0, 0}}], [%r1]"
    )
    run(
        store_kernel(instruction, source.nbytes),
        [tensor.to_bytes(), pointer(source), pointer(target)],
        [source, target],
    )
    np.testing.assert_array_equal(target, expected)


def test_bulk_reduction_of_bf16_rounds_to_nearest():
    values = np.array([1.0, 1.0, -3.5, 256.0], np.float32)
    addends = np.array([2.0**-9, 3 * 2.0**-9, 3.5, 1.0], np.float32)
    expected = np.array([1.0, 1.0 + 2.0**-7, 0.0, 256.0], np.float32)
    pack = [np.repeat(x.view(np.uint32) >> 16, 2).astype(np.uint16) for x in (values, addends, expected)]
    source, target = aligned(16, np.uint16), aligned(16, np.uint16)
    source[:], target[:] = pack[1], pack[0]
    run(
        store_kernel("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 [%rd2], [%r1], 16", 16),
        [bytes(128), pointer(source), pointer(target)],
        [source, target],
    )
    np.testing.assert_array_equal(target, pack[2])


@pytest.mark.parametrize("order", ORDERS)
def test_bulk_copy_there_and_back(order):
    source, target = random_bytes(2048, 9), aligned(2048)
    ptx = kernel(
        ".param .u64 source, .param .u64 target",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra END;
    mbarrier.init.shared.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 2048;
    mov.u32 %r2, 2048;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+1024], [%rd1], %r2, [%r1];
    {wait("%r1")}
    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r1+1024], 2048;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
END:""",
    )
    run(ptx, [pointer(source), pointer(target)], [source, target], order=order)
    np.testing.assert_array_equal(target, source)


def test_unwaited_store_is_an_error():
    source, target = random_bytes(1024, 6), aligned(1024)
    with pytest.raises(EmulationError, match="wait_group"):
        run(
            store_kernel("cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r1], 1024", 1024, waits=False),
            [bytes(128), pointer(source), pointer(target)],
            [source, target],
            order="late",
        )


def test_wrong_byte_count_is_a_deadlock():
    data = random_bytes(4096, 10)
    tensor = TensorMap(data.ctypes.data, "bf16", (64, 20), (160,), (64, 8), swizzle="128B")
    with pytest.raises(Deadlock, match="tx"):
        load(tensor, (0, 0), buffers=[data], expect=1040)


def good_map(data):
    return TensorMap(data.ctypes.data, "bf16", (64, 20), (160,), (64, 8), swizzle="128B")


@pytest.mark.parametrize(
    "options,error,named",
    [
        (dict(data=1040), Misaligned, "multiple of 128"),
        (dict(mode=".im2col"), UnsupportedInstruction, "im2col"),
        (dict(modifiers=".evict_first"), UnsupportedInstruction, "evict_first"),
        (dict(modifiers=".cta_group::3"), UnsupportedInstruction, "cta_group::3"),
        (dict(tail=", %rd5"), UnsupportedInstruction, "operands"),
        (dict(data=40960), OutOfBounds, "shared"),
    ],
)
def test_errors_name_the_line(options, error, named):
    data = random_bytes(4096, 11)
    with pytest.raises(error, match=named) as caught:
        load(good_map(data), (0, 0), buffers=[data], **options)
    assert "cp.async.bulk.tensor" in caught.value.text and caught.value.line > 10


def test_global_memory_is_checked():
    """The map describes more than the buffer holds."""
    data = random_bytes(160 * 10, 12)
    load(good_map(data), (0, 2), buffers=[data])
    with pytest.raises(OutOfBounds, match="buffer"):
        load(good_map(data), (0, 3), buffers=[data])


def test_wrong_maps_are_refused():
    data = random_bytes(4096, 13)
    tensor = good_map(data)
    out = aligned(1024)
    ptx = load_kernel(2, (0, 0), 1024, dump_bytes=1024)
    with pytest.raises(EmulationError, match="not a tensor map"):
        run(ptx, [bytes(128), pointer(out)], [out, data])
    flat = TensorMap(data.ctypes.data, "u8", (100,), (), (64,))
    with pytest.raises(EmulationError, match="rank 1"):
        run(ptx, [flat.to_bytes(), pointer(out)], [out, data])
    with pytest.raises(EmulationError, match="one row"):
        load(tensor, (0, 1, 2, 3, 4), buffers=[data], mode=".tile::gather4")
    with pytest.raises(BarrierMisuse, match="not initialised"):
        run(ptx.replace("], [%r1];", "], [%r1+8];"), [tensor.to_bytes(), pointer(out)], [out, data])
