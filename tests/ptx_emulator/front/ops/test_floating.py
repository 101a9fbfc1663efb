"""Floating-point instructions against numpy, torch, exact rationals and the IEEE definitions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ptx_emulator.errors import UnsupportedInstruction

from ...lanes import compute, compute_one, grid_of, program, run

F32_EDGES = np.array(
    [
        0x00000000,
        0x80000000,
        0x00000001,
        0x80000001,
        0x007FFFFF,
        0x00800000,
        0x3F800000,
        0xBF800000,
        0x3F800001,
        0x40490FDB,
        0x7F7FFFFF,
        0xFF7FFFFF,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
        0xFFC12345,
        0x33800000,
        0x4B800001,
    ],
    np.uint32,
).view(np.float32)
CANONICAL_NAN = 0x7FFFFFFF


def f32_pairs(n: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    random = [rng.integers(0, 2**32, 300, np.uint32).view(np.float32) for _ in range(n)]
    normal = [rng.standard_normal(300).astype(np.float32) for _ in range(n)]
    edges = grid_of(*[F32_EDGES if n < 3 else F32_EDGES[::2]] * n)
    return [np.concatenate(parts) for parts in zip(edges, random, normal, strict=True)]


def flush(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    return np.where(bits & 0x7F800000 == 0, bits & 0x80000000, bits).astype(np.uint32).view(np.float32)


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits, any NaN matching any NaN."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    width = {2: np.uint16, 4: np.uint32, 8: np.uint64}[got.itemsize]
    np.testing.assert_array_equal(got.view(width)[~nan], expected.view(width)[~nan])


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("ftz", ["", ".ftz"])
@pytest.mark.parametrize(
    "opcode, function",
    [("add.rn", np.add), ("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div.rn", np.divide)],
)
def test_f32_arithmetic(opcode, function, ftz):
    a, b = f32_pairs()
    got = compute_one(f"{opcode}{ftz}.f32 %o0, %i0, %i1;", [a, b], np.float32)
    expected = flush(function(flush(a), flush(b))) if ftz else function(a, b)
    same(got, expected)


def exact_fma(a: float, b: float, c: float) -> Fraction:
    return Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))


def nearest_f32(value: Fraction) -> np.float32:
    """Rounded to nearest even from the exact value: the candidate and its neighbours are compared exactly."""
    guess = np.float32(float(value))
    candidates = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(candidates, key=lambda f: (abs(Fraction(float(f)) - value), int(f.view(np.uint32)) & 1))


def test_fma_rounds_once():
    rng = np.random.default_rng(3)
    a = rng.standard_normal(500).astype(np.float32)
    b = rng.standard_normal(500).astype(np.float32)
    c = (-a.astype(np.float64) * b).astype(np.float32)
    # A product just above a tie of the sum, where rounding through fp64 would go wrong.
    a[0], b[0], c[0] = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2**30)
    a[1], b[1], c[1] = np.float32(2**-30), np.float32(2**-30), np.float32(1 + 2**-23)
    a[2], b[2], c[2] = np.float32(1 + 2**-23), np.float32(2**-24), np.float32(1.0)
    got = compute_one("fma.rn.f32 %o0, %i0, %i1, %i2;", [a, b, c], np.float32)
    expected = np.array([nearest_f32(exact_fma(*row)) for row in zip(a, b, c, strict=True)])
    np.testing.assert_array_equal(got, expected)
    assert got[2] == np.float32(1 + 2**-23)


@pytest.mark.parametrize("kind, dtype", [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_mixed_precision(kind, dtype):
    """fp16 or bf16 operands, which convert exactly, with an fp32 addend (PTX ISA 9.7.5)."""
    generator = torch.Generator().manual_seed(6)
    a, b = (torch.randn(200, generator=generator).to(dtype) for _ in range(2))
    c = torch.randn(200, generator=generator).numpy()
    a[:2] = torch.tensor([torch.inf, torch.finfo(dtype).smallest_normal / 4])
    narrow = [x.view(torch.int16).numpy().view(np.uint16) for x in (a, b)]
    wide = [x.float().numpy() for x in (a, b)]
    same(compute_one(f"add.rn.f32.{kind} %o0, %i0, %i1;", [narrow[0], c], np.float32), wide[0] + c)
    same(compute_one(f"sub.f32.{kind} %o0, %i0, %i1;", [narrow[0], c], np.float32), wide[0] - c)
    clamped = np.clip(wide[0] + c, np.float32(0), np.float32(1))
    same(compute_one(f"add.rn.sat.f32.{kind} %o0, %i0, %i1;", [narrow[0], c], np.float32), clamped)
    got = compute_one(f"fma.rn.f32.{kind} %o0, %i0, %i1, %i2;", [*narrow, c], np.float32)
    expected = [nearest_f32(exact_fma(*row)) for row in zip(wide[0][1:], wide[1][1:], c[1:], strict=True)]
    np.testing.assert_array_equal(got[1:], np.array(expected))
    with pytest.raises(UnsupportedInstruction, match="mixed precision takes"):
        compute_one(f"add.rn.ftz.f32.{kind} %o0, %i0, %i1;", [narrow[0], c], np.float32)


EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
}


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("opcode, n", [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)])
def test_directed_rounding_brackets_the_exact_value(mode, opcode, n):
    rng = np.random.default_rng(4)
    args = [
        rng.standard_normal(300).astype(np.float32) * np.float32(2.0) ** rng.integers(-20, 20, 300) for _ in range(n)
    ]
    args = [x.astype(np.float32) for x in args]
    sources = ", ".join(f"%i{i}" for i in range(n))
    got = compute_one(f"{opcode}.{mode}.f32 %o0, {sources};", args, np.float32)
    for i, result in enumerate(got):
        x = [Fraction(float(v[i])) for v in args]
        exact = EXACT[opcode](*x)
        down = np.nextafter(result, np.float32(-np.inf))
        up = np.nextafter(result, np.float32(np.inf))
        r = Fraction(float(result))
        direction = mode if mode != "rz" else ("rm" if exact > 0 else "rp")
        if direction == "rm":
            assert r <= exact < Fraction(float(up))
        else:
            assert Fraction(float(down)) < exact <= r


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("opcode", ["rcp", "sqrt", "div"])
def test_directed_rounding_of_division_and_root(mode, opcode):
    rng = np.random.default_rng(5)
    a, b = (np.abs(rng.standard_normal(200)).astype(np.float32) + np.float32(1e-3) for _ in range(2))
    operands = "%i0, %i1" if opcode == "div" else "%i0"
    got = compute_one(f"{opcode}.{mode}.f32 %o0, {operands};", [a, b], np.float32)
    for x, y, r in zip(a, b, got, strict=True):
        low = r if mode != "rp" else np.nextafter(r, np.float32(0))
        high = np.nextafter(low, np.float32(np.inf))
        x, y, low, high = (Fraction(float(v)) for v in (x, y, low, high))
        if opcode == "sqrt":
            assert low * low <= x < high * high or (mode == "rp" and low * low < x <= high * high)
        else:
            exact = 1 / x if opcode == "rcp" else x / y
            assert low <= exact < high or (mode == "rp" and low < exact <= high)


def test_saturation():
    a, b = f32_pairs()
    got = compute_one("add.sat.f32 %o0, %i0, %i1;", [a, b], np.float32)
    total = a + b
    np.testing.assert_array_equal(got, np.where(np.isnan(total), 0, np.clip(total, 0, 1)))


@pytest.mark.parametrize("opcode, function", [("min", np.fmin), ("max", np.fmax)])
def test_min_max_ignore_a_single_nan(opcode, function):
    a, b = f32_pairs()
    got = compute_one(f"{opcode}.f32 %o0, %i0, %i1;", [a, b], np.float32)
    both = np.isnan(a) & np.isnan(b)
    assert (got.view(np.uint32)[both] == CANONICAL_NAN).all()
    np.testing.assert_array_equal(got[~both], function(a, b)[~both])
    # PTX ISA 9.7.3.11: +0 is larger than -0.
    zeros = (a == 0) & (b == 0)
    expected = np.signbit(a) | np.signbit(b) if opcode == "min" else np.signbit(a) & np.signbit(b)
    np.testing.assert_array_equal(np.signbit(got)[zeros], expected[zeros])


@pytest.mark.parametrize("opcode, function", [("min", np.minimum), ("max", np.maximum)])
def test_min_max_nan_return_the_canonical_nan(opcode, function):
    a, b = f32_pairs()
    got = compute_one(f"{opcode}.NaN.f32 %o0, %i0, %i1;", [a, b], np.float32)
    nan = np.isnan(a) | np.isnan(b)
    assert (got.view(np.uint32)[nan] == CANONICAL_NAN).all()
    np.testing.assert_array_equal(got[~nan], function(a, b)[~nan])


def test_min_max_of_three_absolute_and_flushed():
    a, b, c = f32_pairs(3)
    got = compute(
        "max.f32 %o0, %i0, %i1, %i2; min.NaN.f32 %o1, %i0, %i1, %i2; max.NaN.abs.f32 %o2, %i0, %i1, %i2;"
        "max.ftz.f32 %o3, %i0, %i1;",
        [a, b, c],
        *[np.float32] * 4,
    )
    np.testing.assert_array_equal(got[0], np.fmax(np.fmax(a, b), c))
    np.testing.assert_array_equal(got[1], np.minimum(np.minimum(a, b), c))
    np.testing.assert_array_equal(got[2], np.maximum(np.maximum(abs(a), abs(b)), abs(c)))
    np.testing.assert_array_equal(got[3], np.fmax(flush(a), flush(b)))


def test_neg_abs_copysign_change_only_the_sign():
    a, b = f32_pairs()
    got = compute(
        "neg.f32 %o0, %i0; abs.f32 %o1, %i0; copysign.f32 %o2, %i1, %i0; neg.ftz.f32 %o3, %i0;",
        [a, b],
        *[np.uint32] * 4,
    )
    bits, other = a.view(np.uint32), b.view(np.uint32)
    np.testing.assert_array_equal(got[0], bits ^ np.uint32(1 << 31))
    np.testing.assert_array_equal(got[1], bits & np.uint32(0x7FFFFFFF))
    np.testing.assert_array_equal(got[2], bits & np.uint32(0x7FFFFFFF) | other & np.uint32(1 << 31))
    np.testing.assert_array_equal(got[3], flush(a).view(np.uint32) ^ np.uint32(1 << 31))


COMPARISONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": lambda a, b: a != b,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_float_comparisons(comparison):
    a, b = f32_pairs()
    body = f"setp.{comparison}.f32 %p1, %i0, %i1; selp.u32 %o0, 1, 0, %p1;"
    np.testing.assert_array_equal(compute_one(body, [a, b], np.uint32), COMPARISONS[comparison](a, b))
    wide = [a.astype(np.float64), b.astype(np.float64)]
    body = body.replace(".f32", ".f64")
    np.testing.assert_array_equal(compute_one(body, wide, np.uint32), COMPARISONS[comparison](a, b))
    half = [a.astype(np.float16), b.astype(np.float16)]
    body = body.replace(".f64", ".f16")
    np.testing.assert_array_equal(compute_one(body, half, np.uint32), COMPARISONS[comparison](*half))


def test_setp_ftz_compares_subnormals_as_zero():
    a, b = f32_pairs()
    got = compute_one("setp.lt.ftz.f32 %p1, %i0, %i1; selp.u32 %o0, 1, 0, %p1;", [a, b], np.uint32)
    np.testing.assert_array_equal(got, flush(a) < flush(b))


def test_testp():
    a = F32_EDGES
    tests = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"]
    got = compute(
        "".join(f"testp.{t}.f32 %p1, %i0; selp.u32 %o{k}, 1, 0, %p1;" for k, t in enumerate(tests)),
        [a],
        *[np.uint32] * 6,
    )
    tiny = np.finfo(np.float32).tiny
    expected = [
        np.isfinite(a),
        np.isinf(a),
        ~np.isnan(a),
        np.isnan(a),
        np.isfinite(a) & (abs(a) >= tiny),
        (a != 0) & (abs(a) < tiny),
    ]
    for result, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def ulp_error(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest distance in units of the last place of fp32, of normal results."""
    exact = np.asarray(exact, np.float64)
    keep = np.isfinite(exact) & (abs(exact) > 2e-38) & (abs(exact) < 3e38)
    spacing = np.spacing(abs(exact[keep]).astype(np.float32)).astype(np.float64)
    return float((abs(got[keep].astype(np.float64) - exact[keep]) / spacing).max())


# Bounds of PTX ISA 9.7.3: ulp, or absolute error where the table is in powers of two.
@pytest.mark.parametrize(
    "opcode, function, low, high, ulps",
    [
        ("ex2.approx", np.exp2, -126, 127, 2.0),
        ("rcp.approx", lambda x: 1 / x, -1e4, 1e4, 1.0),
        ("rsqrt.approx", lambda x: 1 / np.sqrt(x), 1e-6, 1e6, 2.0),
        ("sqrt.approx", np.sqrt, 0, 1e6, 1.0),
        ("rcp.rn", lambda x: 1 / x, -1e4, 1e4, 0.5),
        ("sqrt.rn", np.sqrt, 0, 1e6, 0.5),
    ],
)
def test_approximations_within_the_isa_bound(opcode, function, low, high, ulps):
    x = np.random.default_rng(6).uniform(low, high, 5000).astype(np.float32)
    got = compute_one(f"{opcode}.f32 %o0, %i0;", [x], np.float32)
    assert ulp_error(got, function(x.astype(np.float64))) <= ulps * 1.001


def test_lg2_sin_cos_tanh_within_the_isa_bound():
    rng = np.random.default_rng(7)
    x = rng.uniform(0.01, 50, 4000).astype(np.float32)
    angle = rng.uniform(-np.pi, np.pi, 4000).astype(np.float32)
    got = compute(
        "lg2.approx.f32 %o0, %i0; sin.approx.f32 %o1, %i1; cos.approx.f32 %o2, %i1; tanh.approx.f32 %o3, %i1;",
        [x, angle],
        *[np.float32] * 4,
    )
    wide = angle.astype(np.float64)
    assert abs(got[0] - np.log2(x.astype(np.float64))).max() < 2**-20
    assert abs(got[1] - np.sin(wide)).max() < 2**-20.5
    assert abs(got[2] - np.cos(wide)).max() < 2**-20.5
    assert abs(got[3] / np.tanh(wide) - 1).max() < 2**-11


def test_special_values_of_approximations():
    """The tables of PTX ISA 9.7.3.13-21."""
    inf, nan, tiny = np.inf, np.nan, 1e-40
    x = np.array([0.0, -0.0, inf, -inf, nan, -1.0, tiny, 1.0, 128.0, -150.0], np.float32)
    ops = ["ex2.approx.ftz", "lg2.approx.ftz", "rcp.approx.ftz", "rsqrt.approx.ftz", "sqrt.approx.ftz"]
    got = compute("".join(f"{o}.f32 %o{k}, %i0;" for k, o in enumerate(ops)), [x], *[np.float32] * 5)
    expected = [
        [1, 1, inf, 0, nan, 0.5, 1, 2, inf, 0],
        [-inf, -inf, inf, nan, nan, nan, -inf, 0, 7, nan],
        [inf, -inf, 0, -0.0, nan, -1, inf, 1, 1 / 128, np.float32(-1 / 150)],
        [inf, -inf, 0, nan, nan, nan, inf, 1, np.float32(128**-0.5), nan],
        [0, -0.0, inf, nan, nan, nan, 0, 1, np.float32(128**0.5), nan],
    ]
    for result, wanted in zip(got, expected, strict=True):
        same(result, np.array(wanted, np.float32))


def test_ex2_of_integers_is_exact():
    x = np.arange(-149, 128).astype(np.float32)
    got = compute_one("ex2.approx.f32 %o0, %i0;", [x], np.float32)
    np.testing.assert_array_equal(got, np.exp2(x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("opcode, function", [("add.rn", np.add), ("mul", np.multiply), ("sub", np.subtract)])
@pytest.mark.parametrize("ftz", ["", ".ftz"])
def test_packed_f32x2_is_two_independent_operations(opcode, function, ftz):
    a, b = f32_pairs()
    n = len(a) // 2 * 2
    a, b = a[:n], b[:n]
    got = compute_one(f"{opcode}{ftz}.f32x2 %o0, %i0, %i1;", [a.view(np.uint64), b.view(np.uint64)], np.uint64)
    expected = flush(function(flush(a), flush(b))) if ftz else function(a, b)
    same(got.view(np.float32), expected)


def test_packed_fma_matches_the_scalar_one():
    a, b, c = f32_pairs(3)
    n = len(a) // 2 * 2
    a, b, c = a[:n], b[:n], c[:n]
    single = compute_one("fma.rn.f32 %o0, %i0, %i1, %i2;", [a, b, c], np.float32)
    pair = compute_one("fma.rn.f32x2 %o0, %i0, %i1, %i2;", [x.view(np.uint64) for x in (a, b, c)], np.uint64)
    same(pair.view(np.float32), single)
    down = compute_one("fma.rm.f32 %o0, %i0, %i1, %i2;", [a, b, c], np.float32)
    pair = compute_one("fma.rm.f32x2 %o0, %i0, %i1, %i2;", [x.view(np.uint64) for x in (a, b, c)], np.uint64)
    same(pair.view(np.float32), down)


def test_f64_arithmetic():
    rng = np.random.default_rng(8)
    a, b, c = (rng.standard_normal(200) for _ in range(3))
    got = compute(
        """add.f64 %o0, %i0, %i1; sub.f64 %o1, %i0, %i1; mul.f64 %o2, %i0, %i1; div.rn.f64 %o3, %i0, %i1;
        fma.rn.f64 %o4, %i0, %i1, %i2; min.f64 %o5, %i0, %i1; neg.f64 %o6, %i0; abs.f64 %o7, %i0;""",
        [a, b, c],
        *[np.float64] * 8,
    )
    fused = np.array([float(exact_fma(*row)) for row in zip(a, b, c, strict=True)])
    for result, wanted in zip(got, [a + b, a - b, a * b, a / b, fused, np.minimum(a, b), -a, abs(a)], strict=True):
        np.testing.assert_array_equal(result, wanted)
    root = compute_one("sqrt.rn.f64 %o0, %i0;", [abs(a)], np.float64)
    np.testing.assert_array_equal(root, np.sqrt(abs(a)))


def halves(dtype, n: int, seed: int = 9) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(512, generator=generator).mul_(8).to(dtype) for _ in range(n)]
    tensors[0][:4] = torch.tensor([0.0, -0.0, float("inf"), 3e-6], dtype=dtype)
    return tensors


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("kind, dtype", [("f16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize(
    "opcode, function",
    [
        ("add.rn", lambda a, b, c: a + b),
        ("sub.rn", lambda a, b, c: a - b),
        ("mul.rn", lambda a, b, c: a * b),
        ("fma.rn", lambda a, b, c: a * b + c),
        ("max", lambda a, b, c: torch.maximum(a, b)),
        ("min", lambda a, b, c: torch.minimum(a, b)),
    ],
)
def test_half_precision(kind, dtype, opcode, function):
    a, b, c = halves(dtype, 3)
    expected = bits(function(a.double(), b.double(), c.double()).to(dtype))
    sources = "%i0, %i1, %i2" if "fma" in opcode else "%i0, %i1"
    got = compute_one(f"{opcode}.{kind} %o0, {sources};", [bits(x) for x in (a, b, c)], np.uint16)
    packed = compute_one(f"{opcode}.{kind}x2 %o0, {sources};", [bits(x).view(np.uint32) for x in (a, b, c)], np.uint32)
    same(got.view(np.float16), expected.view(np.float16))
    same(packed.view(np.float16), expected.view(np.float16))


def test_half_precision_nan_relu_and_sign():
    a = np.array([1.0, -1.0, np.nan, -np.inf], np.float16)
    b = np.array([np.nan, 2.0, np.nan, 1.0], np.float16)
    one = np.ones(4, np.float16)
    plain, strict, relu, neg, magnitude = compute(
        """max.f16 %o0, %i0, %i1; max.NaN.f16 %o1, %i0, %i1; fma.rn.relu.f16 %o2, %i0, %i2, %i2;
        neg.f16 %o3, %i0; abs.bf16 %o4, %i0;""",
        [a, b, one],
        *[np.uint16] * 5,
    )
    assert plain.tolist() == [0x3C00, 0x4000, 0x7FFF, 0x3C00]
    assert strict.tolist() == [0x7FFF, 0x4000, 0x7FFF, 0x3C00]
    assert relu.tolist() == [0x4000, 0x0000, 0x7FFF, 0x0000]
    np.testing.assert_array_equal(neg, a.view(np.uint16) ^ np.uint16(0x8000))
    np.testing.assert_array_equal(magnitude, a.view(np.uint16) & np.uint16(0x7FFF))


def test_half_precision_ex2_and_tanh():
    x = np.linspace(-8, 8, 200).astype(np.float16)
    got = compute("ex2.approx.f16 %o0, %i0; tanh.approx.f16 %o1, %i0;", [x], np.float16, np.float16)
    for result, exact in zip(got, [np.exp2(x.astype(float)), np.tanh(x.astype(float))], strict=True):
        assert abs(result.astype(float) / np.where(exact == 0, 1, exact) - (exact != 0)).max() < 2**-9.9


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rz.f64 %rd1, %rd2, %rd3;",
        "ex2.f32 %r1, %r2;",
        "max.xorsign.abs.f32 %r1, %r2, %r3;",
        "fma.rn.sat.bf16 %rs1, %rs2, %rs3, %rs4;",
        "div.f32 %r1, %r2, %r3;",
    ],
)
def test_unknown_forms_are_errors(instruction):
    with pytest.raises(UnsupportedInstruction, match=instruction.split()[0].replace(".", r"\.")):
        run(program(instruction, 0), [])
