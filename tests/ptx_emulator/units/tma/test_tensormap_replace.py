"""tensormap.replace and tensormap.cp_fenceproxy: a map that the kernel has changed loads what the changed map says."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import EmulationError, UnsupportedInstruction
from ptx_emulator.units.tma.tensormap import TensorMap

from ...helpers import ORDERS, aligned, dump, kernel, pointer, random_bytes, run, wait
from ...models import expected_box

START = 0x400 + 1024  # absolute offset of the box in shared memory


def program(replacements: str, nbytes: int) -> str:
    """Thread 0 copies the first 64 bytes of `map` to shared memory; after `replacements` warp 0 writes the map to
    `place` in global memory and thread 0 loads the box at (0, 2) with it; 1024 bytes go to `out`."""
    copies = "\n".join(
        f"ld.param.v2.b64 {{%rd20, %rd21}}, [map+{i}];\nst.shared.v2.b64 [%r3+{i}], {{%rd20, %rd21}};"
        for i in range(0, 64, 16)
    )
    return kernel(
        ".param .align 64 .b8 map[128], .param .u64 place, .param .u64 out, .param .u64 data",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    add.u32 %r3, %r1, 128;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [place];
    ld.param.u64 %rd3, [data];
    setp.ne.u32 %p0, %r0, 0;
    shr.u32 %r4, %r0, 5;
    setp.ne.u32 %p1, %r4, 0;
    @%p0 bra REPLACED;
    mbarrier.init.shared.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    {copies}
    {replacements}
REPLACED:
    @%p1 bra READY;
    tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd2], [%r3], 128;
    fence.proxy.tensormap::generic.acquire.gpu [%rd2], 128;
    @%p0 bra READY;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {nbytes};
    cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1+1024], [%rd2, {{0, 2}}], [%r1];
READY:
    bar.sync 0;
    add.u32 %r2, %r1, 1024;
    {wait("%r1")}
    {dump("%rd1", "%r2", 1024, 128)}""",
    )


def load(tensor: TensorMap, replacements: str, data: np.ndarray, nbytes: int, order: str = "in_order") -> np.ndarray:
    place, out = aligned(128), aligned(1024)
    params = [tensor.to_bytes(), pointer(place), pointer(out), pointer(data)]
    run(program(replacements, nbytes), params, [place, out, data], order=order)
    return out


def replace(field: str, operands: str, kind: str = "b32") -> str:
    return f"tensormap.replace.tile.{field}.shared::cta.b1024.{kind} [%r3], {operands};\n"


@pytest.mark.parametrize("order", ORDERS)
def test_every_field(order):
    """A 16-bit map without swizzle becomes a 32-bit one with another address, size, stride, box, step and swizzle."""
    data = random_bytes(4096, 1)
    before = TensorMap(data.ctypes.data + 64, "f16", (64, 8), (256,), (32, 8))
    after = TensorMap(data.ctypes.data, "f32", (20, 9), (112,), (16, 6), (1, 2), swizzle="64B", oob_fill="nan")
    text = "".join(
        [
            replace("global_address", "%rd3", "b64"),
            replace("elemtype", "7"),
            replace("global_dim", "0, 20"),
            "mov.u32 %r5, 9;\n" + replace("global_dim", "1, %r5"),
            "mov.u64 %rd4, 112;\n" + replace("global_stride", "0, %rd4", "b64"),
            replace("box_dim", "0, 16") + replace("box_dim", "1, 6"),
            replace("element_stride", "1, 2"),
            replace("swizzle_mode", "2") + replace("fill_mode", "1") + replace("interleave_layout", "0"),
        ]
    )
    out = load(before, text, data, after.box_bytes, order)
    expected = expected_box(data, after, (0, 2), START, 1024, START)
    np.testing.assert_array_equal(out, expected)
    unchanged = load(before, "", data, before.box_bytes, order)
    np.testing.assert_array_equal(unchanged, expected_box(data[64:], before, (0, 2), START, 1024, START))
    assert (unchanged != expected).any()


def test_a_compiler_clears_a_bit_that_the_record_does_not_use():
    """NVIDIA's compiler clears bit 21 of the word at byte 8 of the real map after replacing a global_dim."""
    data = random_bytes(4096, 2)
    tensor = TensorMap(data.ctypes.data, "f16", (64, 8), (256,), (32, 8), (1, 8))
    clear = "ld.shared.b32 %r6, [%r3+8];\nand.b32 %r6, %r6, -2097153;\nst.shared.b32 [%r3+8], %r6;\n"
    nbytes = tensor.box_bytes
    out = load(tensor, clear, data, nbytes)
    np.testing.assert_array_equal(out, expected_box(data, tensor, (0, 2), START, 1024, START))


@pytest.mark.parametrize(
    "text,error,named",
    [
        (replace("elemtype", "8"), UnsupportedInstruction, "elemtype"),
        (replace("interleave_layout", "1"), UnsupportedInstruction, "interleave_layout"),
        (replace("swizzle_mode", "4"), UnsupportedInstruction, "swizzle_mode"),
        (replace("global_dim", "5, 1"), UnsupportedInstruction, "ordinal"),
        (replace("global_dim", "%r1, 1"), UnsupportedInstruction, "ordinal"),
        (replace("global_address", "%r1", "b32"), UnsupportedInstruction, "b64"),
        (replace("surprise", "1"), UnsupportedInstruction, "surprise"),
        (replace("global_dim", "0, 0"), EmulationError, r"global_dim\[0\] = 0"),
        (replace("rank", "2"), EmulationError, "element_strides"),
        (replace("box_dim", "1, 300"), EmulationError, r"box_dim\[1\] = 300"),
        ("st.shared.b32 [%r3], 0;\n" + replace("rank", "1"), EmulationError, "not a tensor map"),
    ],
)
def test_errors(text, error, named):
    data = random_bytes(4096, 3)
    tensor = TensorMap(data.ctypes.data, "f16", (64, 8), (256,), (32, 8))
    with pytest.raises(error, match=named):
        load(tensor, text, data, tensor.box_bytes)
