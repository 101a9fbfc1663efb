"""cvt against numpy, torch and the rules of PTX ISA 9.7.9.21."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptx_emulator.errors import UnsupportedInstruction

from ...lanes import compute, compute_one, program, run

INTEGERS = {
    "u8": np.uint8,
    "s8": np.int8,
    "u16": np.uint16,
    "s16": np.int16,
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
}
EDGES = [
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    0x123456789ABCDEF0,
    2**40 + 2**16 + 1,
]


def integers(kind: str) -> np.ndarray:
    """Edge values, as the unsigned array that holds the register (8-bit types live in 16-bit registers)."""
    bits = int(kind[1:])
    held = np.array([v & ((1 << bits) - 1) for v in EDGES], np.uint64)
    return held.astype({8: np.uint16, 16: np.uint16, 32: np.uint32, 64: np.uint64}[bits])


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("saturate", ["", ".sat"])
def test_integer_to_integer(source, target, saturate):
    x = integers(source)
    values = x.astype(INTEGERS["u" + source[1:]]).view(INTEGERS[source]).tolist()
    width = np.dtype(INTEGERS[target]).itemsize
    register = {1: np.uint16}.get(width, INTEGERS["u" + target[1:]])
    instruction = f"cvt{saturate}.{target}.{source} %o0, %i0;"
    info, given = np.iinfo(INTEGERS[target]), np.iinfo(INTEGERS[source])
    if saturate and info.min <= given.min and given.max <= info.max:
        with pytest.raises(UnsupportedInstruction, match="cvt.sat does not exist"):
            compute_one(instruction, [x], register)
        return
    got = compute_one(instruction, [x], register)
    for value, result in zip(values, got.tolist(), strict=True):
        expected = min(max(value, info.min), info.max) if saturate else value
        expected &= (1 << 8 * width) - 1
        if target == "s8" and expected & 0x80:
            expected |= 0xFF00  # sign-extended to its 16-bit register
        assert result == expected, (value, saturate)


FLOATS = np.array(
    [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.49999997,
        1e3 + 0.7,
        -1e3 - 0.7,
        127.5,
        128.5,
        255.5,
        -129.0,
        3e9,
        -3e9,
        5e9,
        1e19,
        2e19,
        -1e19,
        np.inf,
        -np.inf,
        np.nan,
        2147483520.0,
        9.2e18,
    ],
    np.float32,
)
ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("source", ["f32", "f64", "f16"])
def test_float_to_integer_rounds_and_clamps(source, mode, target):
    dtype = {"f32": np.float32, "f64": np.float64, "f16": np.float16}[source]
    with np.errstate(over="ignore"):
        x = FLOATS.astype(dtype)
    bits = int(target[1:])
    register = {8: np.uint16}.get(bits, INTEGERS["u" + target[1:]])
    got = compute_one(f"cvt.{mode}.{target}.{source} %o0, %i0;", [x], register)
    info = np.iinfo(INTEGERS[target])
    for value, result in zip(x, got.tolist(), strict=True):
        if np.isnan(value):
            expected = 1 << (bits - 1) if (source == "f64" or bits == 64) and bits >= 32 else 0
            if source == "f64" and bits < 32:
                continue
        else:
            rounded = ROUND[mode](np.float64(value))
            if np.isinf(rounded):
                expected = info.max if rounded > 0 else info.min
            else:
                expected = min(max(int(rounded), info.min), info.max)
        expected &= (1 << bits) - 1
        if target == "s8" and expected & 0x80:
            expected |= 0xFF00
        assert result == expected, value


@pytest.mark.parametrize("source", INTEGERS)
def test_integer_to_float_rounds_once(source):
    x = integers(source)
    values = [int(v) for v in x.astype(INTEGERS["u" + source[1:]]).view(INTEGERS[source])]
    single, double = compute(
        f"cvt.rn.f32.{source} %o0, %i0; cvt.rn.f64.{source} %o1, %i0;", [x], np.float32, np.float64
    )
    for value, s, d in zip(values, single, double, strict=True):
        assert float(d) == float(value)
        below, above = np.nextafter(s, np.float32(-np.inf)), np.nextafter(s, np.float32(np.inf))
        distance = abs(int(s) - value)
        assert distance <= abs(int(below) - value) and distance <= abs(int(above) - value)
        if distance == abs(int(above) - value) or distance == abs(int(below) - value):
            assert distance == 0 or int(s.view(np.uint32)) & 1 == 0


def test_integer_to_float_directed():
    x = np.array([16777217, 2**31 - 1, 5], np.uint32)
    down, up = compute("cvt.rz.f32.u32 %o0, %i0; cvt.rp.f32.u32 %o1, %i0;", [x], np.float32, np.float32)
    assert down.tolist() == [16777216.0, 2147483520.0, 5.0]
    assert up.tolist() == [16777218.0, 2147483648.0, 5.0]


def test_integer_to_half():
    x = np.array([0, 1, 2049, 65519, 65520, 70000], np.uint32)
    half, brain = compute("cvt.rn.f16.u32 %o0, %i0; cvt.rn.bf16.u32 %o1, %i0;", [x], np.uint16, np.uint16)
    assert half.view(np.float16).tolist() == [0.0, 1.0, 2048.0, 65504.0, np.inf, np.inf]
    expected = torch.tensor(x.astype(np.float64)).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(brain, expected)


def every_half() -> np.ndarray:
    return np.arange(65536, dtype=np.uint32).astype(np.uint16)


def test_every_half_widens_exactly():
    x = every_half()
    from_half, from_brain = compute("cvt.f32.f16 %o0, %i0; cvt.f32.bf16 %o1, %i0;", [x], np.uint32, np.uint32)
    half = x.view(np.float16).astype(np.float32)
    keep = ~np.isnan(half)
    np.testing.assert_array_equal(from_half[keep], half.view(np.uint32)[keep])
    assert np.isnan(from_half.view(np.float32)[~keep]).all()
    np.testing.assert_array_equal(from_brain, x.astype(np.uint32) << np.uint32(16))


def f32_samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    halves = every_half().view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        ties = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
    brain = (np.arange(0, 65536, 7, dtype=np.uint32) << np.uint32(16) | np.uint32(0x8000)).view(np.float32)
    random = rng.integers(0, 2**32, 20000, np.uint32).view(np.float32)
    return np.concatenate([halves[::5], ties[::3], np.nextafter(ties[::7], np.float32(0)), brain, random])


@pytest.mark.parametrize("target, dtype", [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_f32_to_half_rounds_to_nearest_even(target, dtype):
    x = f32_samples()
    got = compute_one(f"cvt.rn.{target}.f32 %o0, %i0;", [x], np.uint16)
    expected = torch.from_numpy(x).to(dtype).view(torch.int16).numpy().view(np.uint16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(got[~nan], expected[~nan])
    assert (got[nan] == 0x7FFF).all()


@pytest.mark.parametrize("target, dtype", [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_packed_conversion_puts_its_first_source_up(target, dtype):
    x = f32_samples()
    a, b = x[: len(x) // 2], x[len(x) // 2 : len(x) // 2 * 2]
    a, b = (np.where(np.isnan(v), np.float32(1), v) for v in (a, b))
    got = compute_one(f"cvt.rn.{target}x2.f32 %o0, %i0, %i1;", [a, b], np.uint32)
    upper, lower = (
        torch.from_numpy(v).to(dtype).view(torch.int16).numpy().view(np.uint16).astype(np.uint32) for v in (a, b)
    )
    np.testing.assert_array_equal(got, upper << np.uint32(16) | lower)


@pytest.mark.parametrize("target", ["f16", "bf16", "tf32"])
def test_round_toward_zero_truncates(target):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.standard_normal(2000), rng.standard_normal(500) * 1e-6, [1e6, -1e6]]).astype(np.float32)
    got = compute_one(f"cvt.rz.{target}.f32 %o0, %i0;", [x], np.uint32 if target == "tf32" else np.uint16)
    bits = x.view(np.uint32)
    if target == "tf32":
        expected = bits & np.uint32(0xFFFFE000)
    elif target == "bf16":
        expected = (bits >> np.uint32(16)).astype(np.uint16)
    else:
        with np.errstate(over="ignore"):
            near = x.astype(np.float16)
        too_far = abs(near.astype(np.float64)) > abs(x.astype(np.float64))
        expected = np.where(too_far, near.view(np.uint16) - np.uint16(1), near.view(np.uint16))
    np.testing.assert_array_equal(got, expected)


def test_tf32_rounds_to_nearest_away_and_even():
    one = 0x3F800000
    x = np.array([one | 0x1000, one | 0x3000, one | 0xFFF, one | 0x1001], np.uint32).view(np.float32)
    away, even = compute("cvt.rna.tf32.f32 %o0, %i0; cvt.rn.tf32.f32 %o1, %i0;", [x], np.uint32, np.uint32)
    assert away.tolist() == [one | 0x2000, one | 0x4000, one, one | 0x2000]
    assert even.tolist() == [one, one | 0x4000, one, one | 0x2000]


@pytest.mark.parametrize(
    "target, dtype, limit", [("e4m3x2", torch.float8_e4m3fn, 448.0), ("e5m2x2", torch.float8_e5m2, 57344.0)]
)
def test_fp8_saturates_to_the_largest_finite(target, dtype, limit):
    x = f32_samples()
    x = np.concatenate(
        [x, np.linspace(-500, 500, 4001).astype(np.float32), np.array([448, 449, 464, 465, 1e30], np.float32)]
    )
    x = x[: len(x) // 2 * 2]
    a, b = x[::2].copy(), x[1::2].copy()
    got = compute_one(f"cvt.rn.satfinite.{target}.f32 %o0, %i0, %i1;", [a, b], np.uint16)
    for values, result in ((a, got >> np.uint16(8)), (b, got & np.uint16(255))):
        expected = torch.from_numpy(np.clip(values, -limit, limit)).to(dtype).view(torch.uint8).numpy()
        nan = np.isnan(values)
        np.testing.assert_array_equal(result[~nan], expected[~nan])
        assert (result[nan] == 0x7F).all()


@pytest.mark.parametrize("source, dtype", [("e4m3x2", torch.float8_e4m3fn), ("e5m2x2", torch.float8_e5m2)])
def test_every_fp8_pair_widens_to_half(source, dtype):
    x = np.arange(0, 65536, 3, dtype=np.uint32).astype(np.uint16)
    got = compute_one(f"cvt.rn.f16x2.{source} %o0, %i0;", [x], np.uint32).view(np.float16)
    expected = torch.from_numpy(x.view(np.uint8).copy()).view(dtype).to(torch.float32).numpy()
    nan = np.isnan(expected)
    np.testing.assert_array_equal(got[~nan].astype(np.float32), expected[~nan])
    assert np.isnan(got[nan]).all()


def test_half_pair_to_fp8():
    x = np.array([1.0, -2.5, 300.0, 1e-3, 500.0, 0.0625, np.inf, 0.0], np.float16)
    got = compute_one("cvt.rn.satfinite.e4m3x2.f16x2 %o0, %i0;", [x.view(np.uint32)], np.uint16)
    expected = (
        torch.from_numpy(np.clip(x.astype(np.float32), -448, 448)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    )
    np.testing.assert_array_equal(got.view(np.uint8), expected)


def test_fp4_and_scale_formats():
    """e2m1 holds 0, .5, 1, 1.5, 2, 3, 4, 6; ue8m0 holds powers of two (PTX ISA 5.2.3)."""
    x = np.array([0.0, 0.25, 0.26, 0.75, 1.75, 2.5, 5.0, 100.0], np.float32)
    y = -x
    pairs = compute_one(".reg .b8 %b; cvt.rn.satfinite.e2m1x2.f32 %b, %i0, %i1; cvt.u32.u8 %o0, %b;", [x, y], np.uint32)
    magnitude = np.array([0, 0, 1, 2, 4, 4, 6, 7])
    np.testing.assert_array_equal(pairs, magnitude << 4 | magnitude | 8)
    scale = np.array([1.0, 2.0, 3.0, 0.3, 1e-40, 1e38], np.float32)
    up = compute_one("cvt.rp.satfinite.ue8m0x2.f32 %o0, %i0, %i0;", [scale], np.uint16) & np.uint16(255)
    assert up.tolist() == [127, 128, 129, 126, 0, 254]


def test_relu_and_satfinite_of_half_pairs():
    a = np.array([-1.0, 2.0, 1e6, np.nan], np.float32)
    relu, finite = compute(
        "cvt.rn.relu.bf16x2.f32 %o0, %i0, %i0; cvt.rn.satfinite.f16x2.f32 %o1, %i0, %i0;", [a], np.uint32, np.uint32
    )
    assert [v & 0xFFFF for v in relu.tolist()] == [0, 0x4000, 0x4974, 0x7FFF]
    assert [v >> 16 for v in finite.tolist()] == [0xBC00, 0x4000, 0x7BFF, 0x7FFF]


def test_double_to_single_and_back():
    x = np.array([1.0, 1 + 2**-24, 1 + 3 * 2**-24, 1e-320, 1e300, -0.1, np.nan], np.float64)
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(np.float32)
    near, down, back = compute(
        "cvt.rn.f32.f64 %o0, %i0; cvt.rz.f32.f64 %o1, %i0; cvt.f64.f32 %o2, %o0;",
        [x],
        np.float32,
        np.float32,
        np.float64,
    )
    np.testing.assert_array_equal(near, expected)
    assert down[:3].tolist() == [1.0, 1.0, np.float32(1 + 2**-23)]
    assert down[4] == np.finfo(np.float32).max
    np.testing.assert_array_equal(back, expected.astype(np.float64))


def test_rounding_to_integral_floats():
    x = np.array([0.5, 1.5, -0.5, -1.5, 2.7, -2.7, 1e10, np.nan], np.float32)
    got = compute("".join(f"cvt.{m}.f32.f32 %o{k}, %i0;" for k, m in enumerate(ROUND)), [x], *[np.float32] * 4)
    for result, function in zip(got, ROUND.values(), strict=True):
        np.testing.assert_array_equal(result, function(x))


def test_saturating_and_flushing_f32():
    x = np.array([-1.0, 0.25, 2.0, np.nan, 1e-40], np.float32)
    got = compute("cvt.sat.f32.f32 %o0, %i0; cvt.ftz.f32.f32 %o1, %i0;", [x], np.float32, np.float32)
    assert got[0].tolist() == [0.0, 0.25, 1.0, 0.0, float(x[4])]
    assert got[1][4] == 0.0


def test_results_fill_wider_registers():
    x = np.array([0xFF80], np.uint16)
    got = compute(
        "cvt.s8.u16 %r1, %i0; mov.u32 %o0, %r1; cvt.u8.u16 %rd1, %i0; mov.u64 %o1, %rd1;", [x], np.uint32, np.uint64
    )
    assert got[0][0] == 0xFFFFFF80 and got[1][0] == 0x80


@pytest.mark.parametrize(
    "instruction",
    [
        "cvt.f32.s32 %r1, %r2;",
        "cvt.s32.f32 %r1, %r2;",
        "cvt.rn.e4m3x2.f32 %rs1, %r1, %r2;",
        "cvt.rn.e3m2x2.f32 %rs1, %r1, %r2;",
        "cvt.rn.f16x2.f16x2 %r1, %r2;",
    ],
)
def test_unknown_conversions_are_errors(instruction):
    with pytest.raises(UnsupportedInstruction):
        run(program(instruction, 0), [])
