"""tcgen05.mma arithmetic, bit for bit against MMA-Sim (a model fitted to a Blackwell GPU by its authors)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmasim.nv_ptx import TCGen05MMA

from ptx_emulator.units.numerics import floating

from ..tcgen05 import mma_programs

M, N = 64, 32
TORCH = {
    **mma_programs.TORCH,
    "e2m3": torch.uint8,
    "e3m2": torch.uint8,
    "e2m1": torch.uint8,
    "f32": torch.float32,
}
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32}
CASES = [
    ("f16", "f32", "f16", "f16"),
    ("f16", "f32", "bf16", "bf16"),
    ("f16", "f16", "f16", "f16"),
    ("tf32", "f32", "tf32", "tf32"),
    ("f8f6f4", "f32", "e4m3", "e4m3"),
    ("f8f6f4", "f32", "e5m2", "e4m3"),
    ("f8f6f4", "f16", "e4m3", "e5m2"),
    ("f8f6f4", "f32", "e2m3", "e3m2"),
    ("f8f6f4", "f16", "e2m1", "e4m3"),
]
EXPONENT_BITS = {"f32": 8} | {name: fmt.exponent_bits for name, fmt in floating.FORMATS.items()}


def to_torch(bits: np.ndarray, name: str) -> torch.Tensor:
    width = torch.empty(0, dtype=TORCH[name]).element_size() * 8
    return torch.from_numpy(bits.astype(UNSIGNED[width]).copy()).view(TORCH[name])


def from_torch(values: torch.Tensor) -> np.ndarray:
    return values.view({2: torch.int16, 4: torch.int32}[values.element_size()]).numpy().astype(np.uint32)


def oracle(kind, d, a, b, a_bits, b_bits, c_bits):
    k = a_bits.shape[1]
    mma = TCGen05MMA("Blackwell", f"m{M}n{N}k{k}.kind::{kind}.{d}.{a}.{b}")
    result = mma(to_torch(a_bits, a), to_torch(b_bits, b).T, to_torch(c_bits, d))
    return from_torch(result) & (0xFFFF if d == "f16" else 0xFFFFFFFF)


def container(name):
    return floating.FORMATS[name].container_bits if name in floating.FORMATS else {"f32": 32}[name]


def draw(rng, name, shape, spread):
    """Bits of `name`: any pattern ("bits"), or exponents within `spread` of 1.0 and random signs and mantissas."""
    bits = rng.integers(0, 1 << container(name), shape, dtype=np.uint32)
    if spread == "bits":
        return bits
    fmt = floating.FORMATS.get(name)
    exponent_bits = EXPONENT_BITS[name]
    mantissa_bits = fmt.mantissa_bits + fmt.shift if fmt else 23
    bias = (1 << exponent_bits - 1) - 1
    low, high = max(bias - spread, 0), min(bias + spread, (1 << exponent_bits) - 2)
    field = rng.integers(low, high + 1, shape, dtype=np.uint32)
    mask = np.uint32(((1 << exponent_bits) - 1) << mantissa_bits)
    return (bits & ~mask) | (field << mantissa_bits)


@pytest.mark.parametrize("kind,d,a,b", CASES)
@pytest.mark.parametrize("spread", [1, 4, 14, 90, "bits"])
def test_matches_mmasim(kind, d, a, b, spread):
    rng = np.random.default_rng(hash_seed(kind, d, a, b, spread))
    k = 256 // container(a)
    a_bits, b_bits = draw(rng, a, (M, k), spread), draw(rng, b, (N, k), spread)
    c_bits = draw(rng, d, (M, N), spread)
    expected = oracle(kind, d, a, b, a_bits, b_bits, c_bits)
    actual = floating.matmul(a_bits, b_bits, c_bits, a, b, d)
    np.testing.assert_array_equal(actual, expected)


def hash_seed(*parts):
    return list("|".join(map(str, parts)).encode())


@pytest.mark.parametrize("d", ["f32", "f16"])
def test_large_cancellation(d):
    """Products near 2**20 that cancel pairwise leave only what the 25-bit alignment kept of the small terms."""
    rng = np.random.default_rng(5)
    a = draw(rng, "f16", (M, 16), 2)
    b = draw(rng, "f16", (N, 16), 2)
    a[:, 1], b[:, 1] = a[:, 0] ^ 0x8000, b[:, 0]
    a[:, 0] += 9 << 10
    a[:, 1] += 9 << 10
    c = draw(rng, d, (M, N), 3)
    expected = oracle("f16", d, "f16", "f16", a, b, c)
    np.testing.assert_array_equal(floating.matmul(a, b, c, "f16", "f16", d), expected)
    # The case can fail: an exact float64 sum rounds differently.
    exact = to_torch(a, "f16").double() @ to_torch(b, "f16").double().T + to_torch(c, d).double()
    assert (from_torch(exact.to(TORCH[d])) & 0xFFFFFFFF != expected).any()


def test_special_values_reach_only_their_rows_and_columns():
    rng = np.random.default_rng(6)
    a, b, c = (draw(rng, "bf16", s, 3) for s in ((M, 16), (N, 16), (M, N)))
    c = c << 16
    clean = floating.matmul(a, b, c, "bf16", "bf16", "f32")
    a[3, 5], b[7, 2], c[9, 11] = 0x7FC0, 0x7F80, 0xFF800000
    dirty = floating.matmul(a, b, c, "bf16", "bf16", "f32")
    np.testing.assert_array_equal(dirty, oracle("f16", "f32", "bf16", "bf16", a, b, c))
    assert (dirty[3] == 0x7FFFFFFF).all() and dirty[9, 11] == 0xFF800000
    touched = np.zeros((M, N), bool)
    touched[3], touched[:, 7], touched[9, 11] = True, True, True
    np.testing.assert_array_equal(dirty[~touched], clean[~touched])


def test_no_accumulator_is_a_zero_accumulator():
    rng = np.random.default_rng(7)
    a, b = draw(rng, "f16", (M, 16), 4), draw(rng, "f16", (N, 16), 4)
    expected = oracle("f16", "f32", "f16", "f16", a, b, np.zeros((M, N), np.uint32))
    np.testing.assert_array_equal(floating.matmul(a, b, None, "f16", "f16", "f32"), expected)


def test_negate_flips_the_sign():
    rng = np.random.default_rng(8)
    raw = draw(rng, "bf16", (4, 16), "bits")
    plus, minus = (floating.decode(raw, floating.FORMATS["bf16"], n).value for n in (False, True))
    np.testing.assert_array_equal(minus, -plus)


def test_scale_of_the_accumulator():
    """2**-s is exact for normal results, so it equals an accumulator scaled beforehand."""
    rng = np.random.default_rng(9)
    a = floating.decode(draw(rng, "f16", (M, 16), 4), floating.FORMATS["f16"])
    b = floating.decode(draw(rng, "f16", (16, N), 4), floating.FORMATS["f16"])
    c = rng.standard_normal((M, N)).astype(np.float32)
    index = np.arange(M)
    segments = np.stack([index, index, 0 * index], axis=1)
    scaled, beforehand = c.view(np.uint32).copy(), (c / 8).view(np.uint32).copy()
    floating.mma_into(a, b, scaled, segments, 0, N, accumulate=True, half=False, scale_log2=3)
    floating.mma_into(a, b, beforehand, segments, 0, N, accumulate=True, half=False)
    np.testing.assert_array_equal(scaled, beforehand)


def test_segments_place_results():
    """A row of A may serve several segments, each with its own lane and its own columns of B."""
    rng = np.random.default_rng(10)
    a_bits, b_bits = draw(rng, "bf16", (2, 16), 3), draw(rng, "bf16", (16, 16), 3)
    whole = floating.matmul(a_bits, b_bits, None, "bf16", "bf16", "f32")
    a = floating.decode(a_bits, floating.FORMATS["bf16"])
    b = floating.decode(np.ascontiguousarray(b_bits.T), floating.FORMATS["bf16"])
    memory = np.full((8, 32), 0xFFFFFFFF, np.uint32)
    segments = np.array([[0, 1, 0], [0, 5, 8], [1, 2, 0], [1, 6, 8]])
    floating.mma_into(a, b, memory, segments, 4, 8, accumulate=False, half=False)
    np.testing.assert_array_equal(np.concatenate([memory[1, 4:12], memory[5, 4:12]]), whole[0])
    np.testing.assert_array_equal(np.concatenate([memory[2, 4:12], memory[6, 4:12]]), whole[1])
    assert (memory[[0, 3, 4, 7]] == 0xFFFFFFFF).all() and (memory[:, 12:] == 0xFFFFFFFF).all()


@pytest.mark.parametrize(
    "shift_a,shift_b,c_scale",
    [
        (-100, -20, 0.0),
        (-100, -20, 2.0**-122),
        (-110, -26, 2.0**-140),
        (-70, -70, 0.0),
        (-60, -40, 1.0),
        (100, 22, 0.0),
        (64, 64, 2.0**120),
    ],
)
def test_extreme_exponents(shift_a, shift_b, c_scale):
    """Products and sums at both ends of float32's range, where the fast arithmetic must give way to the exact one."""
    rng = np.random.default_rng(11)
    a, b = draw(rng, "bf16", (M, 16), 3), draw(rng, "bf16", (N, 16), 3)
    a, b = a + np.uint32(shift_a * 128 & 0xFFFF) & 0xFFFF, b + np.uint32(shift_b * 128 & 0xFFFF) & 0xFFFF
    a[:, 3], b[5] = 0, 0
    c = (rng.standard_normal((M, N)) * c_scale).astype(np.float32).view(np.uint32)
    expected = oracle("f16", "f32", "bf16", "bf16", a, b, c)
    np.testing.assert_array_equal(floating.matmul(a, b, c, "bf16", "bf16", "f32"), expected)


@pytest.mark.parametrize("columns", [8, 24])
def test_columns_that_do_not_fill_a_block(columns):
    """The same numbers as in a wider matrix; the columns of D beyond are left alone."""
    rng = np.random.default_rng(12)
    a, b, c = (draw(rng, "f16", shape, 6) for shape in ((M, 16), (N, 16), (M, N)))
    c = c << 16
    whole = floating.matmul(a, b, c, "f16", "f16", "f32")
    np.testing.assert_array_equal(
        floating.matmul(a, b[:columns], c[:, :columns], "f16", "f16", "f32"), whole[:, :columns]
    )


@pytest.mark.parametrize("kind,name,ones", [("f16", "f16", 0x3FFF), ("f16", "bf16", 0x3FFF), ("f8f6f4", "e4m3", 0x3F)])
def test_sums_too_large_for_32_bits(kind, name, ones):
    """All significands nearly 2: the aligned sum of 16 or 32 products and an accumulator exceeds an int32."""
    k = 256 // container(name)
    a, b = np.full((M, k), ones, np.uint32), np.full((N, k), ones, np.uint32)
    c = np.full((M, N), 0x40FFFFFF, np.uint32)
    c[1::2] |= 0x80000000
    a[2:4] |= 1 << container(name) - 1
    expected = oracle(kind, "f32", name, name, a, b, c)
    np.testing.assert_array_equal(floating.matmul(a, b, c, name, name, "f32"), expected)
