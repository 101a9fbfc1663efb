"""mma.sync against MMA-Sim and numpy, with fragments filled by the ISA's formulas, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmasim.nv_ptx import MMA

from ptx_emulator.errors import ConvergenceError, UnsupportedInstruction

from ..lanes import program, run

BITS = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8}
TORCH = {"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "e4m3": torch.float8_e4m3fn,
         "e5m2": torch.float8_e5m2, "f32": torch.float32}  # fmt: skip


def place_a(lane, i, k, bits):
    """(row, column) of element a_i: PTX ISA 9.7.14.5.6 to .10."""
    group, thread = lane >> 2, lane % 4
    per = 32 // bits
    if k == 4 * per:  # two registers: m16n8k4 tf32, m16n8k8 of 16 bits, m16n8k16 of 8 bits
        return group + 8 * (i >= per), thread * per + i % per
    low = i < per or 2 * per <= i < 3 * per
    return group + (0 if low else 8), thread * per + i % per + (4 * per if i >= 2 * per else 0)


def place_b(lane, i, bits):
    per = 32 // bits
    return lane % 4 * per + i % per + (4 * per if i >= per else 0), lane >> 2


def place_d(lane, i):
    return (lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + i % 2


def fragments(matrix, count, place, bits):
    """uint32 [32, registers] of a matrix of containers."""
    held = np.zeros((32, count), f"u{bits // 8}")
    for lane in range(32):
        for i in range(count):
            held[lane, i] = matrix[place(lane, i)]
    return held.view(np.uint32)


def multiply(form, a, b, c, k, bits, d_bits):
    """D [16, 8] containers of one mma.sync on containers a [16, k], b [k, 8], c [16, 8]."""
    held = [
        fragments(a, 16 * k // 32, lambda lane, i: place_a(lane, i, k, bits), bits),
        fragments(b, 8 * k // 32, lambda lane, i: place_b(lane, i, bits), bits),
        fragments(c, 4, place_d, d_bits),
    ]
    out = np.zeros((32, held[2].shape[1]), np.uint32)
    text, first, groups = "", 0, []
    for number, fragment in enumerate(held):
        count = fragment.shape[1]
        names = [f"%r{first + i}" for i in range(count)]
        text += f"mad.wide.u32 %rd1, %thread, {4 * count}, %ptr{number};\n"
        text += "".join(f"ld.global.b32 {name}, [%rd1+{4 * i}];\n" for i, name in enumerate(names))
        groups.append("{" + ", ".join(names) + "}")
        first += count
    results = [f"%r{first + i}" for i in range(out.shape[1])]
    text += f"{form} {{{', '.join(results)}}}, {groups[0]}, {groups[1]}, {groups[2]};\n"
    text += f"mad.wide.u32 %rd1, %thread, {4 * len(results)}, %ptr3;\n"
    text += "".join(f"st.global.b32 [%rd1+{4 * i}], {name};\n" for i, name in enumerate(results))
    held = [np.ascontiguousarray(h) for h in held]
    run(program(text, 4), [*held, out])
    found, d = out.view(f"u{d_bits // 8}"), np.zeros((16, 8), np.uint32)
    for lane in range(32):
        for i in range(4):
            d[place_d(lane, i)] = found[lane, i]
    return d


FLOATS = [
    (k, d, name, name)
    for names, sizes, accumulators in (
        (("f16",), (8, 16), ("f16", "f32")), (("bf16",), (8, 16), ("f32",)), (("tf32",), (4, 8), ("f32",)),
        (("e4m3", "e5m2"), (16, 32), ("f16", "f32")),
    )
    for name in names for k in sizes for d in accumulators
] + [(32, "f32", "e4m3", "e5m2"), (16, "f16", "e5m2", "e4m3")]  # fmt: skip


def float_problem(k, d, a_name, b_name, seed):
    rng = np.random.default_rng(seed)

    def values(shape, name):
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(TORCH[name])

    a, b, c = values((16, k), a_name), values((k, 8), b_name), values((16, 8), d)
    kinds = {8: torch.uint8, 16: torch.int16, 32: torch.int32}
    raw = [x.view(kinds[x.element_size() * 8]).numpy().view(f"u{x.element_size()}") for x in (a, b, c)]
    arch = "RTX Blackwell" if BITS[a_name] == 8 else "Blackwell"
    expected = MMA(arch, f"m16n8k{k}.{d}.{a_name}.{b_name}.{d}")(a, b, c)
    d_bits = 16 if d == "f16" else 32
    return raw, expected.view(kinds[d_bits]).numpy().view(f"u{d_bits // 8}").astype(np.uint32), d_bits


@pytest.mark.parametrize("k,d,a_name,b_name", FLOATS)
def test_floats(k, d, a_name, b_name):
    raw, expected, d_bits = float_problem(k, d, a_name, b_name, 51)
    form = f"mma.sync.aligned.m16n8k{k}.row.col.{d}.{a_name}.{b_name}.{d}"
    actual = multiply(form, *raw, k, BITS[a_name], d_bits)
    np.testing.assert_array_equal(actual, expected)


def test_a_swapped_fragment_gives_a_wrong_result():
    raw, expected, d_bits = float_problem(16, "f32", "f16", "f16", 52)
    raw[0] = np.roll(raw[0], 8, axis=1)  # as if the registers of the two halves of K were exchanged
    actual = multiply("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", *raw, 16, 16, d_bits)
    assert (actual != expected).any()


@pytest.mark.parametrize("k", [16, 32])
@pytest.mark.parametrize("a_name", ["s8", "u8"])
@pytest.mark.parametrize("b_name", ["s8", "u8"])
@pytest.mark.parametrize("saturate", [False, True])
def test_integers(k, a_name, b_name, saturate):
    rng = np.random.default_rng(53)
    limits = {"s8": (-128, 128), "u8": (0, 256)}
    a, b = rng.integers(*limits[a_name], (16, k)), rng.integers(*limits[b_name], (k, 8))
    c = rng.integers(-1000, 1000, (16, 8))
    c[3] = 0x7FFFFFFF - 10
    c[4] = -(1 << 31) + 10
    exact = a @ b + c
    expected = np.clip(exact, -(1 << 31), (1 << 31) - 1) if saturate else exact
    form = f"mma.sync.aligned.m16n8k{k}.row.col{'.satfinite' * saturate}.s32.{a_name}.{b_name}.s32"
    raw = (a.astype(np.uint8), b.astype(np.uint8), c.astype(np.int32).view(np.uint32))
    actual = multiply(form, *raw, k, 8, 32)
    np.testing.assert_array_equal(actual, expected.astype(np.int64).astype(np.uint32))
    assert (np.abs(exact) >= 1 << 31).any()


@pytest.mark.parametrize(
    "form,operands",
    [
        ("m16n8k16.row.col.f32.f16.f16.f32", "{%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7, %r8}, {%r1, %r2, %r3, %r4}"),
        ("m16n8k16.col.row.f32.f16.f16.f32", ""),
        ("m16n8k8.row.col.f32.f16.bf16.f32", ""),
        ("m16n8k16.row.col.satfinite.f32.f16.f16.f32", ""),
        ("m16n8k16.row.col.f16.bf16.bf16.f16", ""),
        ("m16n8k64.row.col.s32.s4.s4.s32", ""),
        ("m8n8k4.row.col.f64.f64.f64.f64", ""),
    ],
)
def test_what_is_refused(form, operands):
    operands = operands or "{%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r7, %r8}, {%r1, %r2, %r3, %r4}"
    with pytest.raises(UnsupportedInstruction, match="mma.sync|fragments"):
        run(program(f"mma.sync.aligned.{form} {operands};", 0), [])


def test_all_lanes_are_needed():
    text = """setp.gt.u32 %p1, %thread, 15; @%p1 exit;
    mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7}, {%r1, %r2, %r3, %r4};"""
    with pytest.raises(ConvergenceError, match="all lanes"):
        run(program(text, 0), [])
