"""Block-scaled tcgen05.mma, bit for bit what MMA-Sim computes, with scale factors placed by an independent loop."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mmasim.nv_ptx import TCGen05MMABlockScale

from ptx_emulator.errors import TmemError, UnsupportedInstruction

from ...helpers import ORDERS
from .mma_programs import (
    A_BASE,
    B_BASE,
    ELEMENT_BITS,
    TORCH,
    TYPES,
    containers,
    execute,
    in_tmem,
    place,
    program,
    random_codes,
    shared_bytes,
)

STEPS = 2
SCALE_A, SCALE_B = 256, 264  # columns of Tensor Memory


@dataclass(frozen=True)
class Kind:
    """A kind of MMA: name, vector size as written, factors of a row in a step, type of scale factors, types of A, B."""

    name: str
    size: str
    factors: int
    scale: str
    a: str = "e2m1"
    b: str = "e2m1"

    @property
    def k(self) -> int:
        return 32 if self.name == "mxf8f6f4" else 64

    def simulator(self, n: int) -> TCGen05MMABlockScale:
        block = self.k // self.factors
        form = f"m128n{n}k{self.k}.kind::{self.name}.block{block}.f32.{self.a}.{self.b}.{self.scale}"
        return TCGen05MMABlockScale("Blackwell", form)

    def descriptor(self, m, n, step, *, negate=(0, 0), b_mn=False, extra=0) -> int:
        first = step * self.factors % 4
        codes = (1, 1) if self.k == 64 else (TYPES[self.a][0], TYPES[self.b][0])
        bits = codes[0] << 7 | codes[1] << 10 | negate[0] << 13 | negate[1] << 14 | b_mn << 16 | n >> 3 << 17
        return bits | (self.scale == "ue8m0") << 23 | m >> 7 << 27 | first << 29 | first << 4 | extra


MX8 = Kind("mxf8f6f4", ".block_scale.scale_vec::1X", 1, "ue8m0", "e4m3", "e5m2")
KINDS = [
    MX8,
    Kind("mxf8f6f4", ".block_scale.block32", 1, "ue8m0", "e2m3", "e2m1"),
    Kind("mxf8f6f4", ".block_scale", 1, "ue8m0", "e3m2", "e4m3"),
    Kind("mxf4", ".block_scale.scale_vec::2X", 2, "ue8m0"),
    Kind("mxf4", ".block_scale", 2, "ue8m0"),
    Kind("mxf4nvf4", ".block_scale.block32", 2, "ue8m0"),
    Kind("mxf4nvf4", ".block_scale.scale_vec::4X", 4, "ue8m0"),
    Kind("mxf4nvf4", ".block_scale.block16.collector::a::fill", 4, "ue4m3"),
]
NVF4 = KINDS[-1]
NAMES = [f"{kind.name}{kind.size.replace('.block_scale', '')}-{kind.a}-{kind.b}-{kind.scale}" for kind in KINDS]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def codes_of(rng, rows, name, k):
    """Element codes of all steps, a byte each."""
    return np.concatenate([random_codes(rng, rows, name) for _ in range(2)], axis=1)[:, : STEPS * k]


def memory_bytes(codes, name, k):
    """How the codes lie in shared memory: 4-bit kinds have two in a byte, the first one low."""
    return codes[:, ::2] | codes[:, 1::2] << 4 if k == 64 else shared_bytes(codes, name)


def scales_of(rng, rows, kind, wide=False):
    """Random scale factors [rows, steps * factors], near 1, or anything but NaN if `wide`."""
    shape = (rows, STEPS * kind.factors)
    if kind.scale == "ue4m3":
        return rng.integers(0, 127, shape, dtype=np.uint8)
    middle = rng.integers(8, 246, (rows, 1)) if wide else 127
    return (middle + rng.integers(-8, 9, shape)).astype(np.uint8)


def simulated(kind, a, b, scales_a, scales_b, steps=STEPS):
    """uint32 bits [M, N] of MMA-Sim's result, from codes and scale factors, one step after the other."""
    scale_type = torch.float8_e8m0fnu if kind.scale == "ue8m0" else torch.float8_e4m3fn
    alpha, beta = (torch.from_numpy(s).view(scale_type) for s in (scales_a, scales_b))

    def operand(codes, name):
        if kind.k == 64:  # MMA-Sim holds the first element of a pair in the high half
            return torch.from_numpy(codes[:, ::2] << 4 | codes[:, 1::2])
        held = torch.from_numpy(containers(codes, name))
        return held.view(TORCH[name]) if ELEMENT_BITS[name] == 8 else held

    x, y = operand(a, kind.a), operand(b, kind.b)
    per_step = kind.k // (2 if kind.k == 64 else 1)
    mma, c = kind.simulator(8), torch.zeros(len(a), len(b), dtype=torch.float32)
    for step in range(steps):
        part, factors = (
            slice(step * per_step, (step + 1) * per_step),
            slice(step * kind.factors, (step + 1) * kind.factors),
        )
        c = mma(x[:, part], y[:, part].T, c, alpha[:, factors], beta[:, factors].T)
    return c.view(torch.int32).numpy().view(np.uint32)


def scale_words(kind, scales_a, scales_b, *, split=False):
    """uint32 [128, 24]: Tensor Memory from SCALE_A on. `split`: the upper 64 lanes hold the second half of B's."""
    held = np.full((128, 24, 4), 0xFF, np.uint8)
    for first, scales in ((0, scales_a), (SCALE_B - SCALE_A, scales_b)):
        halves = 2 if split and first else 1
        rows = len(scales) // halves
        for lane, row, factor in itertools.product(range(128), range(rows), range(scales.shape[1])):
            if row % 32 == lane % 32:
                source = row + rows * (lane // 64 if halves == 2 else 0)
                held[lane, first + factor // 4 * (rows // 32) + row // 32, factor % 4] = scales[source, factor]
    return held.reshape(128, 96).view(np.uint32)


def tails(kind, a_rows, b_rows):
    """The operands after the descriptor: where each step's scale factors begin."""
    columns = [
        (SCALE_A + s * kind.factors // 4 * (a_rows // 32), SCALE_B + s * kind.factors // 4 * (b_rows // 32))
        for s in range(STEPS)
    ]
    return [f", [%r3+{a}], [%r3+{b}]" for a, b in columns]


@dataclass
class Problem:
    kind: Kind
    a: np.ndarray
    b: np.ndarray
    scales_a: np.ndarray
    scales_b: np.ndarray

    @staticmethod
    def random(kind, n, seed, m=128, wide=False):
        rng = np.random.default_rng(seed)
        a, b = codes_of(rng, m, kind.a, kind.k), codes_of(rng, n, kind.b, kind.k)
        return Problem(kind, a, b, scales_of(rng, m, kind, wide), scales_of(rng, n, kind, wide))

    def simulated(self):
        return simulated(self.kind, self.a, self.b, self.scales_a, self.scales_b)

    def run(self, *, words=None, descriptor=None, change=lambda text: text, order="in_order", b_mn=False, **fields):
        """The first N columns of D [128, N], one CTA."""
        kind, n = self.kind, len(self.b)
        a = place(memory_bytes(self.a, kind.a, kind.k), "e4m3", A_BASE, False, "64B")
        b = place(memory_bytes(self.b, kind.b, kind.k), "e4m3", B_BASE, b_mn, "none" if b_mn else "32B")
        words = scale_words(kind, self.scales_a, self.scales_b) if words is None else words
        descriptors = descriptor or [kind.descriptor(128, n, s, b_mn=b_mn, **fields) for s in range(STEPS)]
        tail = tails(kind, 128, -(-n // 32) * 32)
        ptx = change(program(a, b, descriptors, kind.name, extra=kind.size, a_words=24, tail=tail))
        return execute(ptx, [a], [b], a_tmem=words, order=order)[0][:, :n]


@every_kind
@pytest.mark.parametrize("n", [32, 96, 256])
def test_kinds(kind, n):
    problem = Problem.random(kind, n, 31)
    np.testing.assert_array_equal(problem.run(), problem.simulated())


@pytest.mark.parametrize("names", list(itertools.product(ELEMENT_BITS, ELEMENT_BITS)), ids="-".join)
def test_element_types(names):
    problem = Problem.random(Kind("mxf8f6f4", ".block_scale", 1, "ue8m0", *names), 32, 32)
    np.testing.assert_array_equal(problem.run(), problem.simulated())


@every_kind
def test_scale_factors_of_any_size(kind):
    """Powers of two from 2**-127 on; sums overflow, and underflow to subnormal numbers and zero."""
    problem = Problem.random(kind, 32, 33, wide=True)
    expected = problem.simulated()
    np.testing.assert_array_equal(problem.run(), expected)
    if kind.scale == "ue8m0":
        assert (expected & 0x7F800000 == 0x7F800000).any() and (expected & 0x7F800000 == 0).any()


@every_kind
def test_nan_scale_factors(kind):
    problem = Problem.random(kind, 32, 34)
    problem.scales_a[5, 0], problem.scales_b[7, -1] = (0xFF, 0xFF) if kind.scale == "ue8m0" else (0x7F, 0xFF)
    actual = problem.run()
    np.testing.assert_array_equal(actual, problem.simulated())
    assert (actual[5] == 0x7FFFFFFF).all() and (actual[:, 7] == 0x7FFFFFFF).all()


@every_kind
def test_infinite_accumulators_and_elements(kind):
    problem = Problem.random(kind, 32, 35)
    if kind.a == "e4m3":
        problem.a[3, 0], problem.b[4, 1] = 0x7F, 0x7C  # NaN in e4m3, infinity in e5m2
    problem.scales_a[9], problem.scales_b[9] = (254, 254) if kind.scale == "ue8m0" else (126, 126)
    np.testing.assert_array_equal(problem.run(), problem.simulated())


@every_kind
def test_negation(kind):
    problem = Problem.random(kind, 32, 36)
    negated = problem.run(negate=(1, 0))
    signs = {8: 0x80, 6: 0x20, 4: 0x8}[ELEMENT_BITS[kind.a]]
    problem.a ^= signs
    np.testing.assert_array_equal(negated, problem.simulated())


@pytest.mark.parametrize("order", ORDERS)
def test_orders_of_completion(order):
    problem = Problem.random(NVF4, 64, 37)
    np.testing.assert_array_equal(problem.run(order=order), problem.simulated())


def test_a_transposed_matrix():
    problem = Problem.random(Kind("mxf8f6f4", ".block_scale", 1, "ue8m0", "e4m3", "e4m3"), 32, 38)
    np.testing.assert_array_equal(problem.run(b_mn=True), problem.simulated())


def test_the_reserved_bit_12_is_ignored():
    problem = Problem.random(NVF4, 32, 46)
    np.testing.assert_array_equal(problem.run(extra=1 << 12), problem.simulated())


def differs(problem, **options):
    return (problem.run(**options) != problem.simulated()).any()


@every_kind
def test_wrong_scale_factors_give_wrong_results(kind):
    """Each of the ID, the quarter's copy, and the operand counts."""
    problem = Problem.random(kind, 64, 39)
    if kind.factors < 4:
        wrong = [kind.descriptor(128, 64, s) ^ (kind.factors << 29) for s in range(STEPS)]
        assert differs(problem, descriptor=wrong)
        wrong = [kind.descriptor(128, 64, s) ^ (kind.factors << 4) for s in range(STEPS)]
        assert differs(problem, descriptor=wrong)
    words = scale_words(kind, problem.scales_a, problem.scales_b)
    for lane, column in ((100, 3), (33, SCALE_B - SCALE_A)):
        changed = words.copy()
        changed[lane, column] ^= 0x03030303
        assert differs(problem, words=changed)
    assert differs(problem, change=lambda text: text.replace(f"[%r3+{SCALE_A}]", f"[%r3+{SCALE_B}]"))


def test_the_id_may_be_in_the_address_too():
    """CUTLASS keeps the ID in the two highest bits of its pointers, and hands these over."""
    problem = Problem.random(MX8, 32, 40)

    def change(text):
        first, second = text.split(f"[%r3+{SCALE_A}], [%r3+{SCALE_B}]")[1:]
        lines = f"add.u32 %r24, %r3, {0x40000000 + SCALE_A};\nadd.u32 %r25, %r3, {0x40000000 + SCALE_B};\n"
        return (
            text[: len(text) - len(second)]
            .replace("tcgen05.mma", lines + "tcgen05.mma")
            .rsplit(f"[%r3+{SCALE_A}], [%r3+{SCALE_B}]", 1)[0]
            + "[%r24], [%r25]"
            + second
        )

    np.testing.assert_array_equal(problem.run(change=change), problem.simulated())
    with pytest.raises(TmemError, match="the descriptor's ID 1"):
        problem.run(change=lambda text: change(text).replace("1073742080", "2147483904"))


@pytest.mark.parametrize("kind", [MX8, NVF4, KINDS[1]], ids=lambda kind: kind.name + kind.a)
def test_a_in_tensor_memory(kind):
    """4-bit kinds have two elements in a byte, the others a byte for each."""
    problem = Problem.random(kind, 64, 41)
    held = memory_bytes(problem.a, kind.a, kind.k) if kind.k == 64 else in_tmem(problem.a, kind.a)
    a_words = np.ascontiguousarray(held).view(np.uint32)  # 16 columns from 256 on; then the scale factors
    words = np.concatenate([a_words, scale_words(kind, problem.scales_a, problem.scales_b)], axis=1)
    b = place(memory_bytes(problem.b, kind.b, kind.k), "e4m3", B_BASE, False, "32B")
    tail = [t.replace("%r3+", "%r28+") for t in tails(kind, 128, 64)]
    ptx = program(
        None, b, [kind.descriptor(128, 64, s) for s in range(STEPS)], kind.name, extra=kind.size, a_words=40, tail=tail
    )
    ptx = ptx.replace("mov.b32 %r21", "add.u32 %r28, %r3, 16;\nmov.b32 %r21")
    actual = execute(ptx, [None], [b], a_tmem=words)[0][:, :64]
    np.testing.assert_array_equal(actual, problem.simulated())


@every_kind
@pytest.mark.parametrize("m,n", [(256, 64), (128, 64), (128, 256)])
def test_cta_pair(kind, m, n):
    """Each CTA has the scale factors of its rows of A and of all columns of B; with M = 128 the upper lanes compute,
    and have the factors of, the second half of the columns."""
    problem = Problem.random(kind, n, 42, m=m)
    a = [place(memory_bytes(x, kind.a, kind.k), "e4m3", A_BASE, False, "64B") for x in np.split(problem.a, 2)]
    b = [place(memory_bytes(x, kind.b, kind.k), "e4m3", B_BASE, False, "64B") for x in np.split(problem.b, 2)]
    words = np.stack([scale_words(kind, x, problem.scales_b, split=m == 128) for x in np.split(problem.scales_a, 2)])
    descriptors = [kind.descriptor(m, n, s) for s in range(STEPS)]
    tail = tails(kind, m // 2, n // 2 if m == 128 else n)
    ptx = program(a[0], b[0], descriptors, kind.name, group=2, extra=kind.size, a_words=24, tail=tail)
    actual = execute(ptx, a, b, a_tmem=words)
    for cta, rows in enumerate(np.split(problem.simulated(), 2)):
        expected = np.concatenate(np.split(rows, 2, axis=1)) if m == 128 else rows
        np.testing.assert_array_equal(actual[cta][:, : expected.shape[1]], expected)


@pytest.mark.parametrize(
    "kind,extra,named",
    [
        (MX8, 1 << 2, "sparsity"),
        (MX8, 1 << 23, "ue4m3 scale factors"),  # turns the bit off
        (MX8, 6 << 7, "A type 6"),
        (MX8, 3 << 27, "M="),
        (NVF4, 1 << 31, "K dimension"),
        (NVF4, 1 << 15, "transposition"),
        (NVF4, 1 << 29, "scale factor A ID 1"),
        (NVF4, 2 << 4, "scale factor B ID 2"),
        (KINDS[3], 1 << 4, "scale factor B ID 1"),
        (KINDS[1], 1 << 15, "A of type e2m3 cannot be transposed"),
    ],
)
def test_descriptors_are_strict(kind, extra, named):
    problem = Problem.random(kind, 32, 43)
    with pytest.raises(UnsupportedInstruction, match=named) as caught:
        problem.run(descriptor=[kind.descriptor(128, 32, s) ^ extra for s in range(STEPS)])
    assert "tcgen05.mma" in caught.value.text


@pytest.mark.parametrize(
    "change,named",
    [
        (lambda text: text.replace(".block16", ".scale_vec::1X"), "mxf4nvf4 with .scale_vec::1X"),
        (lambda text: text.replace(".block16", ""), "mxf4nvf4 with"),
        (lambda text: text.replace("], %p3", "], %p3, 1"), "8 operands"),
        (lambda text: text.replace(".block16", ".block16.ashift"), "ashift|mxf4nvf4 with"),
    ],
)
def test_forms_are_strict(change, named):
    with pytest.raises(UnsupportedInstruction, match=named):
        Problem.random(NVF4, 32, 44).run(change=change)


def test_scale_factors_outside_the_allocation():
    problem = Problem.random(NVF4, 32, 45)
    with pytest.raises(TmemError, match="columns 511 to 514"):
        problem.run(change=lambda text: text.replace(f"[%r3+{SCALE_A}]", "[%r3+511]"))
