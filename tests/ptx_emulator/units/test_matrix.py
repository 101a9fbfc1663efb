"""ldmatrix and stmatrix against the fragment layout of PTX ISA 9.7.14.5.15: lane l holds row l / 4, elements
2 (l % 4) and the next, of each 8x8 matrix."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import Misaligned, UnsupportedInstruction

from ..lanes import aligned, program, run

LANES = np.arange(32)
SETUP = ".shared .align 16 .b8 buf[512]; mov.u32 %r1, buf; mad.lo.u32 %r2, %thread, 16, %r1;"


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix(count, trans):
    x, y = aligned(512).view(np.uint32), np.zeros((32, count), np.uint32)
    x[:] = np.random.default_rng(0).integers(0, 2**32, 128, np.uint32)
    registers = [f"%r{20 + i}" for i in range(count)]
    stores = "".join(f"st.global.u32 [%rd2+{4 * i}], {r};" for i, r in enumerate(registers))
    run(
        program(
            f"""{SETUP} mad.wide.u32 %rd1, %thread, 16, %ptr0; ld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%rd1];
        st.shared.v4.u32 [%r2], {{%r3, %r4, %r5, %r6}}; bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{", ".join(registers)}}}, [%r2];
        mad.wide.u32 %rd2, %thread, {4 * count}, %ptr1; {stores}""",
            2,
        ),
        [x, y],
    )
    matrices = x.view(np.uint16).reshape(4, 8, 8)[:count]
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    for i, matrix in enumerate(matrices):
        got = y[:, i].copy().view(np.uint16).reshape(32, 2)
        np.testing.assert_array_equal(got[:, 0], matrix[LANES // 4, LANES % 4 * 2])
        np.testing.assert_array_equal(got[:, 1], matrix[LANES // 4, LANES % 4 * 2 + 1])


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_stmatrix_is_the_inverse(trans):
    y = aligned(512).view(np.uint16)
    run(
        program(
            f"""{SETUP} mad.lo.u32 %r3, %thread, 65538, 65536; add.u32 %r4, %r3, 0x00640064;
        stmatrix.sync.aligned.m8n8.x2{trans}.shared::cta.b16 [%r2], {{%r3, %r4}}; bar.sync 0;
        setp.lt.u32 %p1, %thread, 16; @!%p1 exit; ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r2];
        mad.wide.u32 %rd2, %thread, 16, %ptr0; st.global.v4.u32 [%rd2], {{%r5, %r6, %r7, %r8}};""",
            1,
        ),
        [y],
    )
    # Lane l's register holds 2 l (low) and l + 1 (high).
    first = np.zeros((8, 8), np.uint16)
    first[LANES // 4, LANES % 4 * 2] = 2 * LANES
    first[LANES // 4, LANES % 4 * 2 + 1] = LANES + 1
    if trans:
        first = first.T
    np.testing.assert_array_equal(y[:64].reshape(8, 8), first)
    np.testing.assert_array_equal(y[64:128].reshape(8, 8), first + 100)


@pytest.mark.parametrize("count", [1, 2])
def test_ldmatrix_of_bytes(count):
    """Four consecutive columns of two rows of the transposed 16x16 matrix: 4 (l % 4) ..., of rows l / 4 and + 8."""
    x, y = aligned(512).view(np.uint32), np.zeros((32, 2 * count), np.uint32)
    x[:] = np.random.default_rng(1).integers(0, 2**32, 128, np.uint32)
    registers = [f"%r{20 + i}" for i in range(2 * count)]
    stores = "".join(f"st.global.u32 [%rd2+{4 * i}], {r};" for i, r in enumerate(registers))
    run(
        program(
            f"""{SETUP} mad.wide.u32 %rd1, %thread, 16, %ptr0; ld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%rd1];
        st.shared.v4.u32 [%r2], {{%r3, %r4, %r5, %r6}}; bar.sync 0;
        ldmatrix.sync.aligned.m16n16.x{count}.trans.shared.b8 {{{", ".join(registers)}}}, [%r2];
        mad.wide.u32 %rd2, %thread, {8 * count}, %ptr1; {stores}""",
            2,
        ),
        [x, y],
    )
    got = y.view(np.uint8).reshape(32, count, 2, 4)  # lane, matrix, register, byte
    for i, matrix in enumerate(x.view(np.uint8).reshape(2, 16, 16)[:count]):
        transposed = matrix.T
        for lane, half, column in np.ndindex(32, 2, 4):
            assert got[lane, i, half, column] == transposed[lane // 4 + 8 * half, 4 * (lane % 4) + column]


@pytest.mark.parametrize("count", [1, 2])
def test_stmatrix_of_bytes(count):
    """As the accumulator of a 16x8 product: columns 2 (l % 4) and the next, rows l / 4 and + 8; a column is stored as
    16 contiguous bytes."""
    x, y = np.random.default_rng(2).integers(0, 2**32, (32, count), np.uint32), aligned(512)
    registers = ", ".join(f"%r{20 + i}" for i in range(count))
    loads = "".join(f"ld.global.u32 %r{20 + i}, [%rd1+{4 * i}];" for i in range(count))
    run(
        program(
            f"""{SETUP} mad.wide.u32 %rd1, %thread, {4 * count}, %ptr0; {loads}
        stmatrix.sync.aligned.m16n8.x{count}.trans.shared.b8 [%r2], {{{registers}}}; bar.sync 0;
        setp.lt.u32 %p1, %thread, {8 * count}; @!%p1 exit; ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r2];
        mad.wide.u32 %rd2, %thread, 16, %ptr1; st.global.v4.u32 [%rd2], {{%r5, %r6, %r7, %r8}};""",
            2,
        ),
        [x, y],
    )
    given = x.view(np.uint8).reshape(32, count, 2, 2)  # lane, matrix, row half, column
    stored = y[: 128 * count].reshape(count, 8, 16)
    for lane, i, half, column in np.ndindex(32, count, 2, 2):
        assert stored[i, 2 * (lane % 4) + column, lane // 4 + 8 * half] == given[lane, i, half, column]


def test_errors():
    with pytest.raises(Misaligned):
        run(program(f"{SETUP} ldmatrix.sync.aligned.m8n8.x1.shared.b16 %r3, [%r2+4];", 0), [])
    for form in ("m16n16.x1.shared.b8", "m8n16.x1.shared.b8x16.b4x16_p64"):
        with pytest.raises(UnsupportedInstruction, match=form[:6]):
            run(program(f"{SETUP} ldmatrix.sync.aligned.{form} %r3, [%r2];", 0), [])
