"""Descriptors and index maps against the ISA's worked examples and tables, and known constants of real kernels."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.units.swizzle import NO_SWIZZLE, SWIZZLE_32B, SWIZZLE_64B, SWIZZLE_128B, SWIZZLE_128B_ATOM_32B
from ptx_emulator.units.tcgen05 import layout as tl

from ...models import swizzled


def cute(shape, stride, coordinate):
    """Offset of a CuTe layout at an integer coordinate of each top-level mode (colexicographic)."""
    total = 0
    for mode_shape, mode_stride, index in zip(shape, stride, coordinate, strict=True):
        for extent, step in zip(mode_shape, mode_stride, strict=True):
            total += index % extent * step
            index //= extent
    return total


# PTX ISA 9.7.16.3.3, examples: (MN-major, swizzle, element bytes, LBO, SBO in elements, "Exact layout").
ISA_EXAMPLES = [
    (False, NO_SWIZZLE, 4, 64, 32, (((8, 2), (4, 4)), ((4, 32), (1, 64)))),
    (False, SWIZZLE_32B, 4, 1, 64, (((8, 2), (4, 4)), ((8, 64), (1, 4)))),
    (True, NO_SWIZZLE, 2, 128, 64, (((8, 1, 2), (8, 2)), ((1, 8, 64), (8, 128)))),
    (True, SWIZZLE_32B, 2, 128, 256, (((8, 2, 2), (8, 2)), ((1, 8, 128), (16, 256)))),
    (True, SWIZZLE_64B, 2, 256, 512, (((8, 4, 2), (8, 2)), ((1, 8, 256), (32, 512)))),
]


@pytest.mark.parametrize("mn_major,swizzle,size,lbo,sbo,exact", ISA_EXAMPLES)
def test_canonical_layouts_of_the_isa(mn_major, swizzle, size, lbo, sbo, exact):
    shape, stride = exact
    rows, k = (int(np.prod(mode)) for mode in shape)
    if not mn_major and swizzle is SWIZZLE_32B:
        k = 8  # one 32-byte span; the example's further columns lie in the next atom
    actual = tl.linear_offsets(rows, k, size, mn_major, lbo * size, sbo * size, swizzle)
    expected = [[cute(shape, stride, (r, c)) * size for c in range(k)] for r in range(rows)]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("swizzle,span", [(SWIZZLE_64B, 4), (SWIZZLE_128B, 8)])
def test_canonical_layouts_by_formula(swizzle, span):
    """The rows of the ISA's table that have no worked example: ((8,m),(T,2k)):((span*T,SBO),(1,T)) and MN-major."""
    t, sbo, lbo = 8, 1000, 5000
    actual = tl.linear_offsets(32, 16, 2, False, 0, sbo * 2, swizzle)
    layout = ((8, 4), (t, 2)), ((span * t, sbo), (1, t))
    expected = [[cute(*layout, (r, c)) * 2 for c in range(16)] for r in range(32)]
    np.testing.assert_array_equal(actual, expected)
    actual = tl.linear_offsets(128, 16, 2, True, lbo * 2, sbo * 2, swizzle)
    blocks = 128 // (span * t)
    layout = ((t, span, blocks), (8, 2)), ((1, t, lbo), (span * t, sbo))
    expected = [[cute(*layout, (r, c)) * 2 for c in range(16)] for r in range(128)]
    np.testing.assert_array_equal(actual, expected)


def test_instruction_descriptor_constants():
    """From a kernel that runs on B200 (TokenSpeed MLA bf16)."""
    d = tl.decode_instruction_descriptor(0x08200490, "f16", False, 1)
    assert (d.m, d.n, d.k, d.a_type, d.b_type, d.d_type) == (128, 128, 16, "bf16", "bf16", "f32")
    assert not (d.a_mn_major or d.b_mn_major or d.a_negate or d.b_negate)
    d = tl.decode_instruction_descriptor(0x08410490, "f16", False, 2)
    assert (d.m, d.n, d.b_mn_major) == (128, 256, True)


def test_shared_descriptor_constants():
    d = tl.decode_shared_descriptor(0x4000404000010000)
    assert (d.start, d.sbo, d.swizzle) == (0, 1024, SWIZZLE_128B)
    d = tl.decode_shared_descriptor(0x8000402000010000 | 0x123)
    assert (d.start, d.sbo, d.swizzle) == (0x1230, 512, SWIZZLE_64B)
    d = tl.decode_shared_descriptor(0x4000404001000000)
    assert (d.lbo, d.sbo, d.swizzle) == (4096, 1024, SWIZZLE_128B)


def idesc(m=64, n=64, d=1, a=1, b=1, extra=0):
    return d << 4 | a << 7 | b << 10 | n >> 3 << 17 | m >> 4 << 24 | extra


@pytest.mark.parametrize(
    "bits,kind,ws,group,named",
    [
        (idesc(extra=1 << 2), "f16", True, 1, "sparsity"),
        (idesc(extra=1 << 3), "f16", True, 1, "saturate"),
        (idesc(extra=1 << 23), "f16", True, 1, "bit 23"),
        (idesc(extra=1 << 30), "f16", True, 1, "maximum shift"),
        (idesc(a=2), "f16", True, 1, "A type"),
        (idesc(b=1), "tf32", True, 1, "A type"),
        (idesc(d=2), "f16", True, 1, "D type"),
        (idesc(d=0), "f16", True, 1, "f16 accumulator"),
        (idesc(m=256), "f16", True, 1, "M=256"),
        (idesc(n=72), "f16", True, 1, "N=72"),
        (idesc(m=32), "f16", False, 1, "M=32"),
        (idesc(m=128, n=24), "f16", False, 2, "N=24"),
        (idesc(m=128, n=8, a=0, b=0, extra=1 << 16), "f8f6f4", False, 1, "N=8"),
        (idesc(a=2, b=0), "f8f6f4", True, 1, "A type"),
        (idesc(a=3, b=0, extra=1 << 15), "f8f6f4", True, 1, "A of type e2m3 cannot be transposed"),
        (idesc(a=0, b=5, extra=1 << 16), "f8f6f4", True, 1, "B of type e2m1 cannot be transposed"),
        (idesc(), "i8", False, 1, "D type"),
        (idesc(d=2, a=0, b=0, extra=1 << 13), "i8", True, 1, "negation of integers"),
        (idesc(d=2, a=0, b=0, m=128, n=40), "i8", False, 1, "N=40"),
        (idesc(d=2, a=0, b=0, m=128, n=48), "i8", False, 2, "N=48"),
        (idesc(), "i7", False, 1, "kind::i7"),
        (idesc(), "f16", True, 2, "cta_group"),
    ],
)
def test_instruction_descriptor_is_strict(bits, kind, ws, group, named):
    with pytest.raises(ValueError, match=named):
        tl.decode_instruction_descriptor(bits, kind, ws, group)


@pytest.mark.parametrize(
    "bits,named",
    [
        (0x4000004000010000, "0b001"),
        (0x4002404000010000, "base offset"),
        (0x4010404000010000, "stride mode"),
        (0x4020404000010000, "bit 53"),
        (0x6000404000010000, "swizzling mode 3"),
    ],
)
def test_shared_descriptor_is_strict(bits, named):
    with pytest.raises(ValueError, match=named):
        tl.decode_shared_descriptor(bits)


@pytest.mark.parametrize("base", [0x2000, 0x2080, 0x2300])
@pytest.mark.parametrize("step", [0, 32, 64, 96])
def test_operand_map_swizzles_the_absolute_address(base, step):
    """Neither a K step within the swizzle span nor a matrix that starts amid the pattern moves the pattern."""
    descriptor = tl.SharedDescriptor(base + step, 0, 1024, SWIZZLE_128B)
    index, extent = tl.operand_map(descriptor, 16, 16, 2, False)
    expected = [[swizzled(base + step + r * 128 + k * 2, "128B") for k in range(16)] for r in range(16)]
    np.testing.assert_array_equal(base + step + index, expected)
    assert base + step + extent <= base + 2048


def test_transposed_map_is_the_transpose():
    descriptor = tl.decode_shared_descriptor(0x4000404001000000 | 0x240)
    plain, _ = tl.operand_map(descriptor, 256, 16, 2, True)
    transposed, _ = tl.operand_map(descriptor, 256, 16, 2, True, transposed=True)
    np.testing.assert_array_equal(plain.T, transposed)


def test_tf32_needs_its_own_swizzle_when_mn_major():
    with pytest.raises(ValueError, match="4-byte"):
        tl.linear_offsets(64, 8, 4, True, 1024, 512, SWIZZLE_128B)
    with pytest.raises(ValueError, match="4-byte"):
        tl.linear_offsets(64, 16, 2, True, 1024, 512, SWIZZLE_128B_ATOM_32B)
    offsets = tl.linear_offsets(64, 8, 4, True, 4096, 512, SWIZZLE_128B_ATOM_32B)
    assert offsets[33, 5] == 4 + 4096 + 128 + 512


# (M, .ws, cta_group) -> lane and column of D[row, column of N=64], written out from 9.7.16.10.5.
PLACES = [
    ((128, False, 1), lambda i, j: (i, j)),
    ((128, True, 1), lambda i, j: (i, j)),
    ((64, False, 1), lambda i, j: (i // 16 * 32 + i % 16, j)),
    ((64, True, 1), lambda i, j: (i + 64 * (j >= 32), j % 32)),
    ((32, True, 1), lambda i, j: (i + 32 * (j // 16), j % 16)),
    ((256, False, 2), lambda i, j: (i, j)),
    ((128, False, 2), lambda i, j: (i + 64 * (j >= 32), j % 32)),
]


@pytest.mark.parametrize("form,place", PLACES)
def test_data_paths(form, place):
    m, ws, group = form
    path = tl.data_path(m, 64, ws, group)
    seen = {}
    for row, lane, first in path.segments:
        for n in range(path.width):
            seen[int(row), int(first) + n] = (int(lane), n)
    assert seen == {(i, j): place(i, j) for i in range(m // group) for j in range(64)}
    assert len(set(seen.values())) == len(seen)


def test_every_fragment_covers_its_cells_once():
    for shape, (registers, height) in tl.LOAD_SHAPES.items():
        for repeat in (1, 2, 4):
            lane, column = tl.fragment_map(shape, repeat, split=100)
            cells = set(zip(lane.ravel(), column.ravel(), strict=True))
            assert len(cells) == registers * repeat * 32, shape
            assert {cell[0] for cell in cells} == set(range(height))


def test_fragment_of_16x256b_is_the_mma_accumulator_fragment():
    """The 16x256b fragment is that of mma.m16n8 accumulators (9.7.14.5): row t/4 (+8), columns 2(t%4), +1."""
    lane, column = tl.fragment_map("16x256b", 2)
    for t in range(32):
        for r in range(8):
            assert lane[r, t] == t // 4 + 8 * (r % 4 >= 2)
            assert column[r, t] == t % 4 * 2 + r % 2 + 8 * (r // 4)


def test_fragment_sizes_are_limited():
    with pytest.raises(ValueError, match="256 registers"):
        tl.fragment_map("16x256b", 64)


@pytest.mark.parametrize(
    "places, size, expected",
    [
        ([5], 4, ([5], 4)),
        ([0, 4, 8, 32, 36, 40], 4, ([0, 32], 12)),
        ([8, 0, 4, 0, 20, 24, 28, 32, 36, 40], 4, ([0, 20, 32], 12)),
        ([0, 1, 2, 3, 10, 11], 1, ([0, 2, 10], 2)),
        ([0, 1, 3], 1, ([0, 1, 3], 1)),
    ],
)
def test_equal_runs(places, size, expected):
    starts, length = tl.equal_runs(np.array(places, np.int32), size)
    assert (starts.tolist(), length) == expected and starts.dtype == np.int64 and starts.flags.c_contiguous


MASKS = [  # start counts, first spans, skip, use, M, N and the lowest bits of each sub-mask: the ISA's examples 2 to 4
    ((0,), (0,), 2, 3, 128, 64, ["11100001110000"]),
    ((0, 0), (1, 0), 2, 3, 64, 128, ["11100001110000111", "000011100001110000"]),
    ((0, 1, 2, 1), (1, 1, 0, 0), 2, 3, 32, 128, ["00001110000111", "0000111000011", "111000011100", "1110000111000"]),
]


def zero_column_bits(starts, firsts, skip, use, generate=1):
    fields = sum(s << 8 * i for i, s in enumerate(starts)) + sum(f << 32 + i for i, f in enumerate(firsts))
    return fields | generate << 39 | skip << 40 | use << 48


@pytest.mark.parametrize("starts,firsts,skip,use,m,n,expected", MASKS)
def test_zero_columns_are_those_of_the_examples(starts, firsts, skip, use, m, n, expected):
    mask = tl.zero_columns(zero_column_bits(starts, firsts, skip, use), m, n)
    for part, text in zip(np.split(mask, len(expected)), expected, strict=True):
        assert "".join(str(int(b)) for b in part[: len(text)][::-1]) == text
    assert not tl.zero_columns(zero_column_bits(starts, firsts, skip, use, generate=0), m, n).any()


@pytest.mark.parametrize("bits", [1 << 56, 1 << 36, 1 << 62])
def test_zero_column_shifts_are_refused(bits):
    with pytest.raises(ValueError, match="column shift"):
        tl.zero_columns(bits, 128, 64)
