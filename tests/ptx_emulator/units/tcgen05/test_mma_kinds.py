"""tcgen05.mma of 4-, 6- and 8-bit types, of integers, and with zero columns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from mmasim.nv_ptx import TCGen05MMA

from .mma_programs import (
    A_BASE,
    B_BASE,
    ELEMENT_BITS,
    TORCH,
    containers,
    execute,
    expected_tmem,
    idesc,
    in_tmem,
    integers,
    place,
    program,
    random_codes,
    shared_bytes,
    to_bits,
)

STEP = 64  # bytes of K: two steps


def simulated(a: np.ndarray, b: np.ndarray, names, d="f32") -> np.ndarray:
    """MMA-Sim on element codes, one K step after the other. Returns uint32 bits [M, N]."""
    m, n = len(a), len(b)
    mma = TCGen05MMA("Blackwell", f"m{m}n{n}k32.kind::f8f6f4.{d}.{names[0]}.{names[1]}")
    c = torch.zeros(m, n, dtype=torch.float32 if d == "f32" else torch.float16)
    operands = [torch.from_numpy(containers(x, name)) for x, name in zip((a, b), names, strict=True)]
    x, y = (t.view(TORCH[name]) if ELEMENT_BITS[name] == 8 else t for t, name in zip(operands, names, strict=True))
    for step in range(0, a.shape[1], 32):
        c = mma(x[:, step : step + 32], y[:, step : step + 32].T, c)
    return c.view(torch.int32 if d == "f32" else torch.int16).numpy().astype(np.uint32) & (
        0xFFFFFFFF if d == "f32" else 0xFFFF
    )


@pytest.mark.parametrize("names", list(itertools.product(ELEMENT_BITS, ELEMENT_BITS)), ids="-".join)
def test_small_types(names):
    """Every pair of types, bit for bit."""
    rng = np.random.default_rng(21)
    codes = [random_codes(rng, rows, name) for rows, name in zip((128, 64), names, strict=True)]
    a, b = (
        place(shared_bytes(x, name), name, base, False, swizzle)
        for x, name, base, swizzle in zip(codes, names, (A_BASE, B_BASE), ("64B", "32B"), strict=True)
    )
    actual = execute(program(a, b, idesc(128, 64, *names), "f8f6f4"), [a], [b])[0][:, :64]
    np.testing.assert_array_equal(actual, simulated(*codes, names))


@pytest.mark.parametrize("name", ["e2m3", "e3m2", "e2m1"])
@pytest.mark.parametrize("wrong", [False, True])
def test_small_types_in_tensor_memory_fill_bytes(name, wrong):
    """A in Tensor Memory has a byte for each element; packed as in shared memory the result is another."""
    rng = np.random.default_rng(22)
    a_codes, b_codes = random_codes(rng, 128, name), random_codes(rng, 64, "e4m3")
    b = place(b_codes, "e4m3", B_BASE, False, "64B")
    held = shared_bytes(a_codes, name) if wrong else in_tmem(a_codes, name)
    words = np.ascontiguousarray(held).view(np.uint32)
    ptx = program(None, b, idesc(128, 64, name, "e4m3"), "f8f6f4", a_words=STEP // 4)
    actual = execute(ptx, [None], [b], a_tmem=words)[0][:, :64]
    assert (actual == simulated(a_codes, b_codes, (name, "e4m3"))).all() != wrong


def test_f16_accumulator_of_small_types():
    rng = np.random.default_rng(23)
    names = ("e2m3", "e2m1")
    codes = [random_codes(rng, rows, name) for rows, name in zip((128, 64), names, strict=True)]
    a = place(shared_bytes(codes[0], names[0]), "e2m3", A_BASE, False, "64B")
    b = place(shared_bytes(codes[1], names[1]), "e2m1", B_BASE, False, "64B")
    actual = execute(program(a, b, idesc(128, 64, *names, d="f16"), "f8f6f4"), [a], [b])[0][:, :64]
    np.testing.assert_array_equal(actual, simulated(*codes, names, "f16"))


def integer_product(a, b, names, *, ws=False, saturate=False, group=1, m=128, n=64, b_mn=False):
    """Tensor Memory [CTAs, 128, 256] after a * b, D being enabled from the second step on."""
    places = []
    for values, name, base, mn in ((a, names[0], A_BASE, False), (b, names[1], B_BASE, b_mn)):
        parts = np.split(values.astype(np.uint8), group)
        places.append([place(part, name, base, mn, "64B") for part in parts])
    descriptor = idesc(m, n, *names, d="s32", b_mn=b_mn) | saturate << 3
    ptx = program(places[0][0], places[1][0], descriptor, "i8", ws=ws, group=group)
    return execute(ptx, *places)


def integer_operand(rng, rows, name):
    low, high = (0, 256) if name == "u8" else (-128, 128)
    return rng.integers(low, high, (rows, STEP))


def as_floats(values: np.ndarray) -> np.ndarray:
    """Floats with the bits of the int32 values, for `expected_tmem`."""
    return values.astype(np.int32).view(np.float32)


@pytest.mark.parametrize("names", list(itertools.product(["u8", "s8"], repeat=2)), ids="-".join)
@pytest.mark.parametrize(
    "m,n,ws,group", [(128, 48, False, 1), (64, 64, True, 1), (32, 128, True, 1), (256, 64, False, 2)]
)
def test_integers(names, m, n, ws, group):
    rng = np.random.default_rng(24)
    a, b = integer_operand(rng, m, names[0]), integer_operand(rng, n, names[1])
    actual = integer_product(a, b, names, m=m, n=n, ws=ws, group=group)
    for cta, rows in enumerate(np.split(a @ b.T, group)):
        np.testing.assert_array_equal(actual[cta], expected_tmem(as_floats(rows), m, n, ws))


def test_integers_of_a_transposed_matrix():
    rng = np.random.default_rng(25)
    a, b = integer_operand(rng, 64, "s8"), integer_operand(rng, 64, "u8")
    actual = integer_product(a, b, ("s8", "u8"), m=64, ws=True, b_mn=True)[0]
    np.testing.assert_array_equal(actual, expected_tmem(as_floats(a @ b.T), 64, 64, True))


def test_signedness_matters():
    rng = np.random.default_rng(26)
    a, b = integer_operand(rng, 128, "s8"), integer_operand(rng, 64, "u8")
    actual = integer_product(a, b, ("u8", "u8"))[0]
    assert (actual != expected_tmem(as_floats(a @ b.T), 128, 64, False)).any()


@pytest.mark.parametrize("saturate", [False, True])
def test_integer_overflow(saturate):
    """The accumulators are first set so that the first step ends at the largest s32 and the second one goes beyond."""
    b = place(np.full((64, STEP), 255, np.uint8), "u8", B_BASE, False, "64B")
    a = place(np.full((128, STEP), 255, np.uint8), "u8", A_BASE, False, "64B")
    ptx = program(a, b, idesc(128, 64, "u8", d="s32") | saturate << 3, "i8", first="1")
    start = 0x7FFFFFFF - 32 * 255 * 255  # the first step just fits
    fill = "".join(
        f"add.u32 %r20, %r5, {c};\ntcgen05.st.sync.aligned.32x32b.x1.b32 [%r20], {{%r7}};\n" for c in range(64)
    )
    ptx = ptx.replace(
        "add.u32 %r5, %r3, %r4;",
        f"add.u32 %r5, %r3, %r4;\nmov.b32 %r7, {start};\n{fill}tcgen05.wait::st.sync.aligned;\n",
        1,
    )
    actual = execute(ptx, [a], [b])[0][:, :64]
    total = start + STEP * 255 * 255
    assert (actual == (0x7FFFFFFF if saturate else total & 0xFFFFFFFF)).all()


def brute_mask(starts, firsts, skip, use, m, n):
    """The mask column by column: spans alternate, each sub-mask drops its first `start` columns."""
    parts = 128 // m
    mask = []
    for part in range(parts):
        pattern, zero = [], bool(firsts[part])
        while len(pattern) < n // parts + starts[part]:
            pattern += [zero] * ((skip if zero else use) + 1)
            zero = not zero
        mask += pattern[starts[part] : starts[part] + n // parts]
    return np.array(mask)


@pytest.mark.parametrize("m,n", [(128, 64), (64, 128), (32, 128), (32, 256)])
def test_zero_columns(m, n):
    rng = np.random.default_rng(27)
    starts, firsts = rng.integers(0, 40, 4), rng.integers(0, 2, 4)
    skip, use = (int(x) for x in rng.integers(0, 12, 2))
    a_values, b_values = integers(rng, (m, 64)), integers(rng, (n, 64))
    a = place(to_bits(a_values, "bf16"), "bf16", A_BASE, False, "128B")
    b = place(to_bits(b_values, "bf16"), "bf16", B_BASE, False, "128B")
    bits = sum(int(s) << 8 * i | int(f) << 32 + i for i, (s, f) in enumerate(zip(starts, firsts, strict=True)))
    bits |= 1 << 39 | skip << 40 | use << 48
    actual = execute(program(a, b, idesc(m, n, "bf16"), "f16", ws=True, scale=f", {bits}"), [a], [b])[0]

    def product(mask):
        return expected_tmem(a_values @ np.where(mask[:, None], 0, b_values).T, m, n, True)

    np.testing.assert_array_equal(actual, product(brute_mask(starts, firsts, skip, use, m, n)))
    assert (actual != product(brute_mask(starts, firsts, use, skip, m, n))).any(), "the two spans look alike"


def test_zero_columns_hide_what_is_in_shared_memory():
    """NaN in a masked column of B does not reach the result."""
    rng = np.random.default_rng(28)
    a_values, b_values = integers(rng, (64, 64)), integers(rng, (64, 64))
    b_values[::2] = np.nan
    a = place(to_bits(a_values, "bf16"), "bf16", A_BASE, False, "128B")
    b = place(to_bits(b_values, "bf16"), "bf16", B_BASE, False, "128B")
    bits = 3 << 32 | 1 << 39  # one column zero, one used, and so on, in both halves
    actual = execute(program(a, b, idesc(64, 64, "bf16"), "f16", ws=True, scale=f", {bits}"), [a], [b])[0]
    expected = expected_tmem(a_values @ np.nan_to_num(b_values).T, 64, 64, True)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["e2m1", "e3m2"])
@pytest.mark.parametrize("shape,multicast,rows,row_bytes", [("128x256b", "", 128, 32), ("32x128b", ".warpx4", 32, 16)])
def test_copies_that_decompress(name, shape, multicast, rows, row_bytes):
    """tcgen05.cp of 4- and 6-bit elements makes bytes of them, where A is expected in Tensor Memory."""
    rng = np.random.default_rng(29)
    codes = rng.integers(0, 1 << ELEMENT_BITS[name], (rows, row_bytes), dtype=np.uint8)
    source = place(shared_bytes(codes, name), "u8", B_BASE, False, "none")
    ptx = program(None, source, 0, "f16", columns=16)
    line = next(line for line in ptx.splitlines() if line.startswith("tcgen05.mma"))
    form = {4: "b4x16_p64", 6: "b6x16_p32"}[ELEMENT_BITS[name]]
    copy = f"tcgen05.cp.cta_group::1.{shape}{multicast}.b8x16.{form} [%r3], %rd10;"
    actual = execute(ptx.replace(line, copy), [None], [source], columns=16)[0]
    expected = np.full((128, 64), 0xFF, np.uint8)
    expected[:, :row_bytes] = np.tile(in_tmem(codes, name), (128 // rows, 1))
    np.testing.assert_array_equal(actual, expected.view(np.uint32))
    plain = execute(ptx.replace(line, copy.replace(f".b8x16.{form}", "")), [None], [source], columns=16)[0]
    assert (plain != actual).any()
