"""tcgen05.mma, .mma.ws, .cp and .commit from PTX.

Operands get into shared memory by TMA, so descriptors, swizzles and TMA's placement are checked against each other;
results are compared with numpy (small integers: exact) and, for rounding, with MMA-Sim.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmasim.nv_ptx import TCGen05MMA

from ptx_emulator.errors import OutOfBounds, TmemError, UnsupportedInstruction

from ...helpers import ORDERS
from .mma_programs import (
    A_BASE,
    B_BASE,
    KINDS,
    TYPES,
    K,
    execute,
    expected_tmem,
    idesc,
    integers,
    place,
    program,
    to_bits,
)

LAYOUTS = [("K", s) for s in ("none", "32B", "64B", "128B")] + [("MN", s) for s in ("none", "32B", "64B", "128B")]
FORMS = [(64, 64, True), (64, 256, True), (32, 128, True), (128, 64, True), (128, 128, False), (64, 40, False)]


def multiply(rng, m, n, ws, a_layout, b_layout, name="bf16", order="in_order"):
    a_values, b_values = integers(rng, (m, K)), integers(rng, (n, K))
    a = place(to_bits(a_values, name), name, A_BASE, a_layout[0] == "MN", a_layout[1])
    b = place(to_bits(b_values, name), name, B_BASE, b_layout[0] == "MN", b_layout[1])
    descriptor = idesc(m, n, name, a_mn=a_layout[0] == "MN", b_mn=b_layout[0] == "MN")
    ptx = program(a, b, descriptor, KINDS[name], ws=ws)
    return execute(ptx, [a], [b], order=order)[0], expected_tmem(a_values @ b_values.T, m, n, ws)


PAIRS = [(a, ("K", "128B")) for a in LAYOUTS] + [(("K", "64B"), b) for b in LAYOUTS] + [(x, x) for x in LAYOUTS]


@pytest.mark.parametrize("a_layout,b_layout", PAIRS)
def test_shared_layouts(a_layout, b_layout):
    """Every canonical layout, for A, for B, and for both, M=64 .ws."""
    actual, expected = multiply(np.random.default_rng(1), 64, 128, True, a_layout, b_layout)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("m,n,ws", FORMS)
@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_data_paths(m, n, ws, name):
    layout = ("MN", "none") if n == 40 else ("MN", "128B")
    actual, expected = multiply(np.random.default_rng(2), m, n, ws, ("K", "128B"), layout, name)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_orders_of_completion(order):
    actual, expected = multiply(np.random.default_rng(3), 64, 256, True, ("K", "128B"), ("MN", "128B"), order=order)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("wrong", ["b_swizzle", "b_major", "b_lbo", "b_sbo"])
def test_wrong_descriptors_give_wrong_results(wrong):
    """The comparison can fail: each descriptor field matters."""
    rng = np.random.default_rng(4)
    a_values, b_values = integers(rng, (64, K)), integers(rng, (128, K))
    a = place(to_bits(a_values, "bf16"), "bf16", A_BASE, False, "128B")
    b = place(to_bits(b_values, "bf16"), "bf16", B_BASE, True, "64B")
    flips = {"b_swizzle": 6 << 61, "b_lbo": 1 << 20, "b_sbo": 1 << 36}
    descriptor = idesc(64, 128, "bf16", b_mn=True)
    if wrong == "b_major":
        descriptor ^= 1 << 16
    else:
        b.descriptors = [d ^ flips[wrong] for d in b.descriptors]
    actual = execute(program(a, b, descriptor, "f16", ws=True), [a], [b])[0]
    assert (actual != expected_tmem(a_values @ b_values.T, 64, 128, True)).any()


@pytest.mark.parametrize("m,n,ws", [(64, 128, True), (128, 128, False), (32, 64, True), (64, 64, False)])
def test_a_in_tensor_memory(m, n, ws):
    """Each lane's A row multiplies for the D row of that lane: where a data path has several parts, each has its own
    A (what FlashMLA uses for two products in one instruction)."""
    rng = np.random.default_rng(5)
    per_lane, b_values = integers(rng, (128, K)), integers(rng, (n, K))
    b = place(to_bits(b_values, "bf16"), "bf16", B_BASE, False, "128B")
    words = to_bits(per_lane, "bf16").view(np.uint32)
    ptx = program(None, b, idesc(m, n, "bf16"), "f16", ws=ws, a_words=K // 2)
    actual = execute(ptx, [None], [b], a_tmem=words)[0]
    product = (per_lane @ b_values.T).astype(np.float32).view(np.uint32)
    expected = np.full((128, 256), 0xFFFFFFFF, np.uint32)
    for lane in range(128):
        if m == 64 and not ws:
            if lane % 32 < 16:
                expected[lane, :n] = product[lane]
        else:
            part = n * m // 128
            first = lane // m * part
            expected[lane, :part] = product[lane, first : first + part]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "name,kind,a_values,b_values",
    [("e4m3", "f8f6f4", (-6, 7), (-6, 7)), ("e5m2", "f8f6f4", (-3, 4), (-3, 4)), ("tf32", "tf32", (-4, 5), (-4, 5))],
)
@pytest.mark.parametrize("swizzle", ["32B", "128B"])
@pytest.mark.parametrize("b_mn", [False, True])
def test_other_kinds(name, kind, a_values, b_values, swizzle, b_mn):
    rng = np.random.default_rng(6)
    k = 128 // TYPES[name][2]
    if name == "tf32" and b_mn:
        swizzle = "128B_atom_32B"
    a_matrix = rng.integers(*a_values, (64, k)).astype(np.float32)
    b_matrix = rng.integers(*b_values, (128, k)).astype(np.float32)
    a = place(to_bits(a_matrix, name), name, A_BASE, False, "128B")
    b = place(to_bits(b_matrix, name), name, B_BASE, b_mn, swizzle)
    actual = execute(program(a, b, idesc(64, 128, name, b_mn=b_mn), kind, ws=True), [a], [b])[0]
    np.testing.assert_array_equal(actual, expected_tmem(a_matrix @ b_matrix.T, 64, 128, True))


@pytest.mark.parametrize("d", ["f32", "f16"])
def test_rounding_over_k_steps(d):
    """Normal numbers, bit for bit: MMA-Sim applied to one K step after the other."""
    rng = np.random.default_rng(7)
    a_bits, b_bits = (to_bits(rng.standard_normal((rows, K)), "f16") for rows in (128, 64))
    a, b = place(a_bits, "f16", A_BASE, False, "128B"), place(b_bits, "f16", B_BASE, False, "128B")
    actual = execute(program(a, b, idesc(128, 64, "f16", d=d), "f16"), [a], [b])[0][:, :64]
    mma = TCGen05MMA("Blackwell", f"m128n64k16.kind::f16.{d}.f16.f16")
    c = torch.zeros(128, 64, dtype=torch.float32 if d == "f32" else torch.float16)
    a_t, b_t = (torch.from_numpy(x.view(np.float16)) for x in (a_bits, b_bits))
    for step in range(0, K, 16):
        c = mma(a_t[:, step : step + 16], b_t[:, step : step + 16].T, c)
    expected = c.view(torch.int32 if d == "f32" else torch.int16).numpy().astype(np.uint32)
    np.testing.assert_array_equal(actual, expected & (0xFFFFFFFF if d == "f32" else 0xFFFF))


def test_negate_and_disabled_lanes():
    rng = np.random.default_rng(8)
    a_values, b_values = integers(rng, (128, K)), integers(rng, (64, K))
    a = place(to_bits(a_values, "bf16"), "bf16", A_BASE, False, "128B")
    b = place(to_bits(b_values, "bf16"), "bf16", B_BASE, False, "128B")
    masks = [0x1, 0, 0x80000000, 0xFFFF]
    lines = "".join(f"mov.b32 %r{22 + i}, {word};\n" for i, word in enumerate(masks))
    ptx = program(
        a,
        b,
        idesc(128, 64, "bf16", negate=(True, False)),
        "f16",
        tail=", {%r22, %r23, %r24, %r25}",
        extra=".collector::a::fill",
    )
    ptx = ptx.replace("mov.b32 %r21", lines + "mov.b32 %r21")
    actual = execute(ptx, [a], [b])[0]
    expected = expected_tmem(-(a_values @ b_values.T), 128, 64, False)
    disabled = np.array([masks[lane // 32] >> lane % 32 & 1 for lane in range(128)], bool)
    expected[disabled] = 0xFFFFFFFF
    np.testing.assert_array_equal(actual, np.where(expected == 0x80000000, 0, expected))


def test_accumulator_is_used_when_enabled():
    """The first step with its accumulator enabled adds to poison: all NaN."""
    rng = np.random.default_rng(9)
    a = place(to_bits(integers(rng, (64, K)), "bf16"), "bf16", A_BASE, False, "128B")
    b = place(to_bits(integers(rng, (64, K)), "bf16"), "bf16", B_BASE, False, "128B")
    actual = execute(program(a, b, idesc(64, 64, "bf16"), "f16", ws=True, first="1"), [a], [b])[0]
    assert (actual[:, :32] == 0x7FFFFFFF).all() and (actual[:, 32:] == 0xFFFFFFFF).all()


@pytest.mark.parametrize("m,n", [(128, 128), (256, 64), (128, 256), (256, 256)])
@pytest.mark.parametrize("b_mn", [False, True])
@pytest.mark.parametrize("order", ["in_order", "random"])
def test_cta_pair(m, n, b_mn, order):
    """Each CTA holds half the rows of A and half the columns of B; one thread of CTA 0 issues."""
    rng = np.random.default_rng(10)
    a_values, b_values = integers(rng, (m, K)), integers(rng, (n, K))
    a = [place(to_bits(x, "bf16"), "bf16", A_BASE, False, "128B") for x in np.split(a_values, 2)]
    b = [place(to_bits(x, "bf16"), "bf16", B_BASE, b_mn, "64B") for x in np.split(b_values, 2)]
    ptx = program(a[0], b[0], idesc(m, n, "bf16", b_mn=b_mn), "f16", group=2)
    actual = execute(ptx, a, b, order=order)
    product = a_values @ b_values.T
    for cta, rows in enumerate(np.split(product, 2)):
        np.testing.assert_array_equal(actual[cta], expected_tmem(rows, m, n, False))


def simple(**options):
    rng = np.random.default_rng(11)
    a = place(to_bits(integers(rng, (64, K)), "bf16"), "bf16", A_BASE, False, "128B")
    b = place(to_bits(integers(rng, (64, K)), "bf16"), "bf16", B_BASE, False, "128B")
    descriptor = options.pop("descriptor", idesc(64, 64, "bf16"))
    change = options.pop("change", lambda text: text)
    kind = options.pop("kind", "f16")
    if "b_bits" in options:
        b.descriptors = [d ^ options["b_bits"] for d in b.descriptors]
        del options["b_bits"]
    return execute(change(program(a, b, descriptor, kind, ws=True, **options)), [a], [b])


@pytest.mark.parametrize(
    "options,error,named",
    [
        (dict(descriptor=idesc(64, 64, "bf16") | 4), UnsupportedInstruction, "sparsity"),
        (dict(descriptor=idesc(64, 72, "bf16")), UnsupportedInstruction, "N=72"),
        (dict(kind="i8"), UnsupportedInstruction, "D type"),
        (dict(extra=".ashift"), UnsupportedInstruction, "ashift"),  # .ws has none
        (dict(extra=".collector::a::fill"), UnsupportedInstruction, "collector::a::fill"),
        (dict(tail=", {%r22, %r23, %r24, %r25}"), UnsupportedInstruction, "disable-output-lane"),
        (dict(scale=f", {1 << 56}"), UnsupportedInstruction, "zero-column mask"),
        (dict(b_bits=1 << 52), UnsupportedInstruction, "stride mode"),
        (dict(b_bits=0x3000), OutOfBounds, "shared memory of CTA 0"),
        (
            dict(
                change=lambda t: t.replace("[%r3], %rd11", "[%r5], %rd11").replace(
                    "mov.b32 %r21,", "add.u32 %r5, %r3, 0x100000;\nmov.b32 %r21,"
                )
            ),
            TmemError,
            "lane 16",
        ),
        (
            dict(
                change=lambda t: t.replace("[%r3], %rd11", "[%r9], %rd11").replace(
                    "mov.b32 %r21,", "add.u32 %r9, %r3, 500;\nmov.b32 %r21,"
                )
            ),
            TmemError,
            "columns 500",
        ),
    ],
)
def test_errors_name_the_instruction(options, error, named):
    with pytest.raises(error, match=named) as caught:
        simple(**options)
    assert "tcgen05.mma" in caught.value.text


@pytest.mark.parametrize("m,group", [(128, 1), (256, 2)])
@pytest.mark.parametrize("order", ORDERS)
def test_shift_of_a(m, group, order):
    """A in Tensor Memory multiplies as it is, then moves: a second product without .ashift, which overwrites D, sees
    row r + 1 in row r of every 32, and the last row again."""
    rng = np.random.default_rng(13)
    a_values, b_values = integers(rng, (m, 16)), integers(rng, (64, 16))
    parts = np.split(b_values, group)
    b = [place(np.tile(to_bits(x, "bf16"), 4), "bf16", B_BASE, False, "128B") for x in parts]
    words = to_bits(a_values, "bf16").view(np.uint32)
    for shifts in (0, 1, 2):
        ptx = program(None, b[0], idesc(m, 64, "bf16"), "f16", group=group, a_words=8)
        lines = [line for line in ptx.splitlines() if line.startswith("tcgen05.mma")]
        shifting = lines[0].replace("kind::f16", "kind::f16.ashift")
        before, *rest = ptx.split(lines[0])
        ptx = before + (shifting + "\n") * shifts + lines[0] + "".join(rest)
        actual = execute(ptx, [None] * group, b, a_tmem=words, order=order)
        moved = a_values.reshape(-1, 32, 16)
        for _ in range(shifts):
            moved = np.concatenate([moved[:, 1:], moved[:, -1:]], axis=1)
        product = moved.reshape(m, 16) @ b_values.T
        for cta, rows in enumerate(np.split(product, group)):
            np.testing.assert_array_equal(actual[cta], expected_tmem(rows, m, 64, False))


@pytest.mark.parametrize("order", ORDERS)
def test_shift(order):
    """Rows 64 to 94 of eight columns take the next row's; the rest stays."""
    rng = np.random.default_rng(14)
    words = rng.integers(0, 1 << 32, (128, 12), dtype=np.uint32)
    b = place(to_bits(integers(rng, (64, K)), "bf16"), "bf16", B_BASE, False, "128B")
    ptx = program(None, b, idesc(128, 64, "bf16"), "f16", a_words=12, columns=12)
    lines = [line for line in ptx.splitlines() if line.startswith("tcgen05.mma")]
    for line in lines:
        ptx = ptx.replace(line, "", 1)
    instruction = "add.u32 %r20, %r3, 0x400101;\ntcgen05.shift.cta_group::1.down [%r20];\n"
    ptx = ptx.replace("setp.ne.u32 %p3", instruction + "setp.ne.u32 %p3", 1)
    ptx = ptx.replace("add.u32 %r31, %r5, 12;", "add.u32 %r5, %r5, 256;\nadd.u32 %r31, %r5, 12;")
    actual = execute(ptx, [None], [b], a_tmem=words, columns=12, order=order)[0]
    expected = words.copy()
    expected[64:95, 1:9] = words[65:96, 1:9]
    np.testing.assert_array_equal(actual, expected)


COPIES = [
    ("128x256b", "", 128, 32),
    ("128x128b", "", 128, 16),
    ("64x128b", ".warpx2::02_13", 64, 16),
    ("64x128b", ".warpx2::01_23", 64, 16),
    ("32x128b", ".warpx4", 32, 16),
]


@pytest.mark.parametrize("shape,multicast,rows,row_bytes", COPIES)
def test_copy(shape, multicast, rows, row_bytes):
    """tcgen05.cp from a matrix of 16-byte columns, 8 rows each 128 bytes (no swizzle)."""
    rng = np.random.default_rng(12)
    words = rng.integers(0, 1 << 32, (rows, row_bytes // 4), dtype=np.uint32)
    source = place(words, "tf32", B_BASE, False, "none")
    ptx = program(None, source, 0, "f16", columns=16)
    line = next(line for line in ptx.splitlines() if line.startswith("tcgen05.mma"))
    ptx = ptx.replace(line, f"tcgen05.cp.cta_group::1.{shape}{multicast} [%r3], %rd10;")
    actual = execute(ptx, [None], [source], columns=16)[0]
    blocks = [words[i : i + 32] for i in range(0, rows, 32)]
    order = {"02_13": (0, 1, 0, 1), "01_23": (0, 0, 1, 1)}.get(multicast[-5:], range(4) if rows == 128 else (0,) * 4)
    expected = np.full((128, 16), 0xFFFFFFFF, np.uint32)
    for quarter, block in enumerate(order):
        expected[32 * quarter : 32 * quarter + 32, : row_bytes // 4] = blocks[block]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("lane", [0, 31])
def test_copy_of_a_row_for_every_quarter(lane):
    """tcgen05.cp.4x256b: source row i lands in the address' lane of quarter i."""
    rng = np.random.default_rng(15)
    words = rng.integers(0, 1 << 32, (8, 8), dtype=np.uint32)
    source = place(words, "tf32", B_BASE, False, "none")
    ptx = program(None, source, 0, "f16", columns=16)
    line = next(line for line in ptx.splitlines() if line.startswith("tcgen05.mma"))
    ptx = ptx.replace(line, f"add.u32 %r20, %r3, {lane << 16};\ntcgen05.cp.cta_group::1.4x256b [%r20], %rd10;")
    actual = execute(ptx, [None], [source], columns=16)[0]
    expected = np.full((128, 16), 0xFFFFFFFF, np.uint32)
    expected[lane::32, :8] = words[:4]
    np.testing.assert_array_equal(actual, expected)
