"""Integer, logic, comparison and move instructions against Python's integers and PTX ISA definitions."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import PtxSyntaxError, UnsupportedInstruction

from ...lanes import compute, compute_one, grid_of, program, run

EDGES = {
    "u16": np.array([0, 1, 2, 31, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF], np.uint16),
    "u32": np.array([0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x12345678], np.uint32),
    "u64": np.array([0, 1, 2, 63, 64, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0], np.uint64),
}
DTYPES = {"u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64}
TYPES = list(DTYPES)


def pairs(kind: str, n: int = 2) -> list[np.ndarray]:
    return [x.view(DTYPES[kind]) for x in grid_of(*[EDGES["u" + kind[1:]]] * n)]


def wrapped(values: list[int], kind: str) -> np.ndarray:
    bits = int(kind[1:])
    return np.array([v & ((1 << bits) - 1) for v in values], np.uint64).astype(DTYPES["u" + kind[1:]])


def check(opcode: str, kind: str, function, n: int = 2) -> None:
    inputs = pairs(kind, n)
    sources = ", ".join(f"%i{i}" for i in range(n))
    got = compute_one(f"{opcode}.{kind} %o0, {sources};", inputs, DTYPES["u" + kind[1:]])
    expected = wrapped([function(*(int(v) for v in row)) for row in zip(*inputs, strict=True)], kind)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "opcode, function",
    [
        ("add", lambda a, b: a + b),
        ("sub", lambda a, b: a - b),
        ("mul.lo", lambda a, b: a * b),
        ("min", min),
        ("max", max),
    ],
)
def test_arithmetic_wraps_at_its_width(opcode, function, kind):
    check(opcode, kind, function)


@pytest.mark.parametrize("kind", TYPES)
def test_mul_hi_is_the_upper_half_of_the_product(kind):
    bits = int(kind[1:])
    check("mul.hi", kind, lambda a, b: (a * b) >> bits)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_mul_wide_keeps_the_whole_product(kind):
    a, b = pairs(kind)
    wide = {"u16": np.uint32, "s16": np.int32, "u32": np.uint64, "s32": np.int64}[kind]
    got = compute_one(f"mul.wide.{kind} %o0, %i0, %i1;", [a, b], wide)
    np.testing.assert_array_equal(got, a.astype(wide) * b.astype(wide))


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_mad_wide_adds_a_64_bit_value(kind):
    a, b = pairs(kind)
    wide = {"u32": np.uint64, "s32": np.int64}[kind]
    c = np.arange(len(a)).astype(wide) * wide(2**40) + wide(7)
    got = compute_one(f"mad.wide.{kind} %o0, %i0, %i1, %i2;", [a, b, c], wide)
    np.testing.assert_array_equal(got, a.astype(wide) * b.astype(wide) + c)


@pytest.mark.parametrize("kind", ["u16", "u32", "s32", "u64"])
def test_mad_lo_and_hi(kind):
    bits = int(kind[1:])
    check("mad.lo", kind, lambda a, b, c: a * b + c, 3)
    check("mad.hi", kind, lambda a, b, c: ((a * b) >> bits) + c, 3)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_div_and_rem_truncate(kind):
    a, b = pairs(kind)
    keep = b != 0
    if kind.startswith("s"):
        keep &= ~((a == np.iinfo(a.dtype).min) & (b == -1))
    a, b = a[keep], b[keep]
    q, r = compute(f"div.{kind} %o0, %i0, %i1; rem.{kind} %o1, %i0, %i1;", [a, b], a.dtype, a.dtype)
    exact = [abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(q, np.array(exact, object).astype(a.dtype))
    np.testing.assert_array_equal(
        r, np.array([int(x) - int(y) * e for x, y, e in zip(a, b, exact, strict=True)], object).astype(a.dtype)
    )


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_neg_and_abs(kind):
    check("neg", kind, lambda a: -a, 1)
    check("abs", kind, abs, 1)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_sad(kind):
    check("sad", kind, lambda a, b, c: abs(a - b) + c, 3)


def test_add_and_sub_saturate():
    a, b = pairs("s32")
    got, less = compute("add.sat.s32 %o0, %i0, %i1; sub.sat.s32 %o1, %i0, %i1;", [a, b], np.int32, np.int32)
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    np.testing.assert_array_equal(got, np.clip(wide_a + wide_b, -(2**31), 2**31 - 1))
    np.testing.assert_array_equal(less, np.clip(wide_a - wide_b, -(2**31), 2**31 - 1))


def test_carry_chain_adds_and_subtracts_96_bits():
    rng = np.random.default_rng(1)
    words = [np.concatenate([rng.integers(0, 2**32, 60, np.uint32), EDGES["u32"]]) for _ in range(6)]
    body = """
    add.cc.u32 %o0, %i0, %i3; addc.cc.u32 %o1, %i1, %i4; addc.u32 %o2, %i2, %i5;
    sub.cc.u32 %o3, %i0, %i3; subc.cc.u32 %o4, %i1, %i4; subc.u32 %o5, %i2, %i5;
    """
    got = compute(body, words, *[np.uint32] * 6)

    def number(parts, i):
        return sum(int(p[i]) << (32 * k) for k, p in enumerate(parts))

    for i in range(len(words[0])):
        a, b = number(words[:3], i), number(words[3:], i)
        assert number(got[:3], i) == (a + b) % 2**96
        assert number(got[3:], i) == (a - b) % 2**96


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits):
    a, b = pairs(f"u{bits}")
    got = compute(
        f"and.b{bits} %o0, %i0, %i1; or.b{bits} %o1, %i0, %i1; xor.b{bits} %o2, %i0, %i1;"
        f"not.b{bits} %o3, %i0; cnot.b{bits} %o4, %i0;",
        [a, b],
        *[a.dtype] * 5,
    )
    for result, expected in zip(got, [a & b, a | b, a ^ b, ~a, a == 0], strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_shifts_clamp_their_count(kind):
    bits = int(kind[1:])
    a, n = grid_of(EDGES["u" + kind[1:]], np.array([0, 1, 15, 16, 31, 32, 33, 63, 64, 255, 2**32 - 1], np.uint32))
    a = a.view(DTYPES[kind])
    left, right = compute(f"shl.b{bits} %o0, %i0, %i1; shr.{kind} %o1, %i0, %i1;", [a, n], a.dtype, a.dtype)
    np.testing.assert_array_equal(
        left, wrapped([int(x) << min(int(s), 64) for x, s in zip(a, n, strict=True)], kind).view(a.dtype)
    )
    np.testing.assert_array_equal(
        right, wrapped([int(x) >> min(int(s), 64) for x, s in zip(a, n, strict=True)], kind).view(a.dtype)
    )


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shift(mode):
    a, b, c = grid_of(EDGES["u32"], EDGES["u32"][::2], np.array([0, 1, 5, 31, 32, 33, 64], np.uint32))
    left, right = compute(
        f"shf.l.{mode}.b32 %o0, %i0, %i1, %i2; shf.r.{mode}.b32 %o1, %i0, %i1, %i2;", [a, b, c], np.uint32, np.uint32
    )
    for x, y, s, low, high in zip(a, b, c, right, left, strict=True):
        n = int(s) & 31 if mode == "wrap" else min(int(s), 32)
        both = int(y) << 32 | int(x)
        assert low == (both >> n) & 0xFFFFFFFF
        assert high == (both << n) >> 32 & 0xFFFFFFFF


def test_bit_counts():
    a, b = EDGES["u32"], EDGES["u64"]
    got = compute(
        "popc.b32 %o0, %i0; clz.b32 %o1, %i0; brev.b32 %o2, %i0; bfind.u32 %o3, %i0; bfind.s32 %o4, %i0;"
        "bfind.shiftamt.u32 %o5, %i0; popc.b64 %o6, %i1; clz.b64 %o7, %i1; brev.b64 %o8, %i1;"
        "bfind.u64 %o9, %i1;",
        [a, b],
        *[np.uint32] * 8,
        np.uint64,
        np.uint32,
    )
    for i, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        magnitude = x ^ 0xFFFFFFFF if x >> 31 else x
        expected = [
            x.bit_count(),
            32 - x.bit_length(),
            int(f"{x:032b}"[::-1], 2),
            (x.bit_length() - 1) % 2**32,
            (magnitude.bit_length() - 1) % 2**32,
            32 - x.bit_length() if x else 2**32 - 1,
            y.bit_count(),
            64 - y.bit_length(),
            int(f"{y:064b}"[::-1], 2),
            (y.bit_length() - 1) % 2**32,
        ]
        assert [int(g[i]) for g in got] == expected


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_field_extract_follows_the_isa_pseudocode(kind):
    bits = int(kind[1:])
    positions = np.array([0, 1, 7, 30, 31, 32, 63, 64, 200, 255, 256], np.uint32)
    a, b, c = grid_of(EDGES[f"u{bits}"], positions, positions)
    got = compute_one(f"bfe.{kind} %o0, %i0, %i1, %i2;", [a, b, c], a.dtype)
    msb = bits - 1
    for x, pos, length, result in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
        pos, length = pos & 255, length & 255
        sbit = 0 if kind[0] == "u" or length == 0 else x >> min(pos + length - 1, msb) & 1
        d = 0
        for i in range(bits):
            d |= (x >> (pos + i) & 1 if i < length and pos + i <= msb else sbit) << i
        assert result == d, (hex(x), pos, length)


@pytest.mark.parametrize("bits", [32, 64])
def test_bit_field_insert_follows_the_isa_pseudocode(bits):
    positions = np.array([0, 1, 7, 31, 32, 40, 63, 255], np.uint32)
    a, b, c, d = grid_of(EDGES[f"u{bits}"][::2], EDGES[f"u{bits}"][1::3], positions, positions)
    got = compute_one(f"bfi.b{bits} %o0, %i0, %i1, %i2, %i3;", [a, b, c, d], a.dtype)
    for x, y, pos, length, result in zip(a.tolist(), b.tolist(), c.tolist(), d.tolist(), got.tolist(), strict=True):
        f = y
        for i in range(length & 255):
            if pos + i < bits:
                f = f & ~(1 << (pos + i)) | (x >> i & 1) << (pos + i)
        assert result == f


def prmt(a: int, b: int, c: int, mode: str) -> int:
    source = [(b << 32 | a) >> (8 * i) & 255 for i in range(8)]
    # PTX ISA 9.7.9.7, table of the special modes: source bytes of d.b3 d.b2 d.b1 d.b0 for selector 0..3.
    special = {
        "f4e": ["3210", "4321", "5432", "6543"],
        "b4e": ["5670", "6701", "7012", "0123"],
        "rc8": ["0000", "1111", "2222", "3333"],
        "ecl": ["3210", "3211", "3222", "3333"],
        "ecr": ["0000", "1110", "2210", "3210"],
        "rc16": ["1010", "3232", "1010", "3232"],
    }
    if mode:
        return sum(source[int(n)] << (8 * (3 - i)) for i, n in enumerate(special[mode][c & 3]))
    result = 0
    for i in range(4):
        selector = c >> (4 * i) & 15
        byte = source[selector & 7]
        result |= (255 * (byte >> 7) if selector & 8 else byte) << (8 * i)
    return result


@pytest.mark.parametrize("mode", ["", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"])
def test_prmt_follows_the_isa_table(mode):
    a, b, c = grid_of(
        np.array([0x83828180, 0x13121110], np.uint32),
        np.array([0x87868584, 0x37363534], np.uint32),
        np.array([0, 1, 2, 3, 0x3210, 0x7654, 0x5410, 0xFEDC, 0x9ABC, 0x4567], np.uint32),
    )
    suffix = f".{mode}" if mode else ""
    got = compute_one(f"prmt.b32{suffix} %o0, %i0, %i1, %i2;", [a, b, c], np.uint32)
    assert got.tolist() == [prmt(*row, mode) for row in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]


@pytest.mark.parametrize("table", [0x80, 0xFE, 0x96, 0xE8, 0xCA, 0x1B, 0x00, 0xFF])
def test_lop3_evaluates_its_table(table):
    a, b, c = grid_of(*[EDGES["u32"]] * 3)
    got = compute_one(f"lop3.b32 %o0, %i0, %i1, %i2, {table};", [a, b, c], np.uint32)
    expected = np.zeros_like(a)
    for bit in range(32):
        x, y, z = (v >> np.uint32(bit) & np.uint32(1) for v in (a, b, c))
        expected |= (np.uint32(table) >> (4 * x + 2 * y + z) & np.uint32(1)) << np.uint32(bit)
    np.testing.assert_array_equal(got, expected)


def test_lop3_known_tables():
    """PTX ISA 9.7.8.6: (a & b & c) is 0x80, (a | b | c) 0xFE, (a & b & ~c) 0x40, ((a & b | c) ^ a) 0x1A."""
    a, b, c = grid_of(*[EDGES["u32"]] * 3)
    got = compute(
        "lop3.b32 %o0, %i0, %i1, %i2, 0x80; lop3.b32 %o1, %i0, %i1, %i2, 0xFE;"
        "lop3.b32 %o2, %i0, %i1, %i2, 0x40; lop3.b32 %o3, %i0, %i1, %i2, 0x1A;",
        [a, b, c],
        *[np.uint32] * 4,
    )
    for result, expected in zip(got, [a & b & c, a | b | c, a & b & ~c, (a & b | c) ^ a], strict=True):
        np.testing.assert_array_equal(result, expected)


def test_bmsk():
    a, b = grid_of(*[np.array([0, 1, 5, 31, 32, 40], np.uint32)] * 2)
    clamp, wrap = compute("bmsk.clamp.b32 %o0, %i0, %i1; bmsk.wrap.b32 %o1, %i0, %i1;", [a, b], np.uint32, np.uint32)
    for x, n, c, w in zip(a.tolist(), b.tolist(), clamp.tolist(), wrap.tolist(), strict=True):
        assert c == ((1 << min(n, 32)) - 1) << min(x, 32) & 0xFFFFFFFF
        assert w == ((1 << (n & 31)) - 1) << (x & 31) & 0xFFFFFFFF


def test_dp4a():
    a, b, c = grid_of(*[np.array([0, 0x01020304, 0x80FF7F01, 0xFFFFFFFF], np.uint32)] * 3)
    got_s, got_u = compute(
        "dp4a.s32.s32 %o0, %i0, %i1, %i2; dp4a.u32.u32 %o1, %i0, %i1, %i2;", [a, b, c], np.uint32, np.uint32
    )
    for got, dtype in ((got_s, np.int8), (got_u, np.uint8)):
        x, y = a.view(dtype).reshape(-1, 4).astype(np.int64), b.view(dtype).reshape(-1, 4).astype(np.int64)
        np.testing.assert_array_equal(got, ((x * y).sum(1) + c).astype(np.uint32))


def test_packed_16_bit_add_and_max():
    a, b = pairs("u32")
    total, high = compute("add.u16x2 %o0, %i0, %i1; max.s16x2 %o1, %i0, %i1;", [a, b], np.uint32, np.uint32)
    np.testing.assert_array_equal(total.view(np.uint16), a.view(np.uint16) + b.view(np.uint16))
    np.testing.assert_array_equal(high.view(np.int16), np.maximum(a.view(np.int16), b.view(np.int16)))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "comparison, function",
    [
        ("eq", np.equal),
        ("ne", np.not_equal),
        ("lt", np.less),
        ("le", np.less_equal),
        ("gt", np.greater),
        ("ge", np.greater_equal),
    ],
)
def test_setp_and_selp(kind, comparison, function):
    a, b = pairs(kind)
    got = compute_one(f"setp.{comparison}.{kind} %p1, %i0, %i1; selp.u32 %o0, 1, 0, %p1;", [a, b], np.uint32)
    np.testing.assert_array_equal(got, function(a, b))


@pytest.mark.parametrize("how, function", [("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)])
def test_setp_combines_and_writes_both_destinations(how, function):
    a, b, c = grid_of(EDGES["u32"], EDGES["u32"], np.array([0, 1], np.uint32))
    first, second, negated = compute(
        f"""setp.ne.u32 %p3, %i2, 0;
        setp.lt.{how}.u32 %p1|%p2, %i0, %i1, %p3; selp.u32 %o0, 1, 0, %p1; selp.u32 %o1, 1, 0, %p2;
        setp.lt.{how}.u32 %p3, %i0, %i1, !%p3; selp.u32 %o2, 1, 0, %p3;""",
        [a, b, c],
        *[np.uint32] * 3,
    )
    less = a < b
    np.testing.assert_array_equal(first, function(less, c != 0))
    np.testing.assert_array_equal(second, function(~less, c != 0))
    np.testing.assert_array_equal(negated, function(less, c == 0))


def test_setp_whose_destinations_include_its_source():
    a, c = grid_of(EDGES["u32"], np.array([0, 1], np.uint32))
    got = compute(
        "setp.ne.u32 %p1, %i1, 0; setp.eq.and.u32 %p1|%p2, %i0, 1, %p1; selp.u32 %o0, 1, 0, %p1;"
        "selp.u32 %o1, 1, 0, %p2;",
        [a, c],
        np.uint32,
        np.uint32,
    )
    np.testing.assert_array_equal(got[0], (a == 1) & (c != 0))
    np.testing.assert_array_equal(got[1], (a != 1) & (c != 0))


def test_unsigned_comparison_names():
    a, b = pairs("u32")
    got = compute(
        "".join(
            f"setp.{c}.u32 %p1, %i0, %i1; selp.u32 %o{k}, 1, 0, %p1;" for k, c in enumerate(("lo", "ls", "hi", "hs"))
        ),
        [a, b],
        *[np.uint32] * 4,
    )
    for result, expected in zip(got, [a < b, a <= b, a > b, a >= b], strict=True):
        np.testing.assert_array_equal(result, expected)


def test_set_and_slct():
    a, b = pairs("s32")
    got = compute(
        "set.lt.u32.s32 %o0, %i0, %i1; set.ge.f32.s32 %o1, %i0, %i1; slct.u32.s32 %o2, 7, 9, %i0;",
        [a, b],
        np.uint32,
        np.float32,
        np.uint32,
    )
    np.testing.assert_array_equal(got[0], np.where(a < b, 0xFFFFFFFF, 0))
    np.testing.assert_array_equal(got[1], np.where(a >= b, 1.0, 0.0))
    np.testing.assert_array_equal(got[2], np.where(a >= 0, 7, 9))


def test_mov_packs_and_unpacks():
    a, b = grid_of(EDGES["u32"], EDGES["u32"])
    packed, low, high, half, swapped, byte = compute(
        """mov.b64 %o0, {%i0, %i1}; mov.b64 {%o1, _}, %o0; mov.b64 {_, %o2}, %o0;
        mov.b32 {%rs1, %rs2}, %i0; mov.u16 %o3, %rs2; mov.b32 %o4, {%rs2, %rs1};
        { .reg .b8 %b<2>; mov.b16 {%b0, %b1}, %rs1; cvt.u16.u8 %o5, %b1; }""",
        [a, b],
        np.uint64,
        np.uint32,
        np.uint32,
        np.uint16,
        np.uint32,
        np.uint16,
    )
    np.testing.assert_array_equal(packed, a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32))
    np.testing.assert_array_equal(low, a)
    np.testing.assert_array_equal(high, b)
    np.testing.assert_array_equal(half, a >> np.uint32(16))
    np.testing.assert_array_equal(swapped, a << np.uint32(16) | a >> np.uint32(16))
    np.testing.assert_array_equal(byte, a >> np.uint32(8) & np.uint32(0xFF))


def test_mov_of_four_elements_and_128_bits():
    a, b = grid_of(EDGES["u64"], EDGES["u64"])
    got = compute(
        """mov.b64 {%rs1, %rs2, %rs3, %rs4}, %i0; mov.b64 %o0, {%rs4, %rs3, %rs2, %rs1};
        mov.b128 %q1, {%i0, %i1}; mov.b128 %q2, %q1; mov.b128 {%o1, %o2}, %q2;""",
        [a, b],
        *[np.uint64] * 3,
    )
    np.testing.assert_array_equal(got[0].view(np.uint16).reshape(-1, 4), a.view(np.uint16).reshape(-1, 4)[:, ::-1])
    np.testing.assert_array_equal(got[1], a)
    np.testing.assert_array_equal(got[2], b)


def test_unpacking_into_the_source_register():
    a = EDGES["u32"]
    got = compute_one(
        "mov.u32 %r1, %i0; mov.b32 {%rs1, %rs2}, %r1; cvt.u32.u16 %r1, %rs2; mov.u32 %o0, %r1;", [a], np.uint32
    )
    np.testing.assert_array_equal(got, a >> np.uint32(16))


def test_guards_select_lanes():
    a = np.arange(64, dtype=np.uint32)
    got = compute_one(
        """mov.u32 %o0, 5; and.b32 %r1, %i0, 1; setp.eq.u32 %p1, %r1, 0;
        @%p1 mov.u32 %o0, 6; @!%p1 add.u32 %o0, %o0, %i0;""",
        [a],
        np.uint32,
    )
    np.testing.assert_array_equal(got, np.where(a % 2 == 0, 6, 5 + a))


def test_guard_written_by_its_own_instruction():
    """The guard is read once, before anything is written, also where an instruction takes several steps."""
    a = np.arange(64, dtype=np.uint32)
    got = compute(
        """setp.lt.u32 %p1, %i0, 32; mov.pred %p2, %p1;
        @%p1 setp.lt.and.u32 %p1|%p2, %i0, 8, %p1; selp.u32 %o0, 1, 0, %p1;
        selp.u32 %o1, 1, 0, %p2;""",
        [a],
        np.uint32,
        np.uint32,
    )
    np.testing.assert_array_equal(got[0], a < 8)
    np.testing.assert_array_equal(got[1], (a >= 8) & (a < 32))


@pytest.mark.parametrize(
    "instruction, message",
    [
        ("add.sat.u32 %r1, %r2, %r3;", "sat"),
        ("add.foo.u32 %r1, %r2, %r3;", "foo"),
        ("frobnicate.b32 %r1, %r2;", "frobnicate"),
        ("setp.lt.b32 %p1, %r1, %r2;", "bit types"),
        ("shf.l.b32 %r1, %r2, %r3, %r4;", "wrap"),
        ("add.u32 %rd1, %r2, %r3;", "%rd1"),
        ("mul.wide.u64 %rd1, %rd2, %rd3;", "mul.wide"),
        ("prmt.b32.xyz %r1, %r2, %r3, %r4;", "xyz"),
    ],
)
def test_what_is_not_implemented_is_an_error_with_its_line(instruction, message):
    ptx = program(f"\n{instruction}", 0)
    with pytest.raises(UnsupportedInstruction, match=message) as caught:
        run(ptx, [])
    assert ptx.split("\n")[caught.value.line - 1].strip() == instruction
    assert instruction.rstrip(";") in str(caught.value)


def test_undeclared_names_are_syntax_errors():
    with pytest.raises(PtxSyntaxError, match="%nowhere"):
        run(program("mov.u32 %r1, %nowhere;", 0), [])
    with pytest.raises(PtxSyntaxError, match="NOLABEL"):
        run(program("bra NOLABEL;", 0), [])
