"""Builders of the floating-point micro-operations and common conversions (PTX ISA 9.7.3-9.7.6, 9.7.9.21)."""

from __future__ import annotations

import struct

from llvmlite import ir

from .. import microcode as mc
from .integer import binary, pick
from .rows import CANONICAL_NAN, I32, LANES, ROW_TYPES, as_float, as_int, call, flag, splat


def flush(b, bits):
    """Subnormals to zero of the same sign; on integer rows."""
    exponent = b.and_(bits, splat("i", 0x7F800000))
    return b.select(b.icmp_unsigned("==", exponent, splat("i", 0)), b.and_(bits, splat("i", 0x80000000)), bits)


def flush_pairs(b, x):
    pairs = ir.VectorType(I32, 2 * LANES)

    def constant(value):
        return ir.Constant(pairs, [ir.Constant(I32, value)] * 2 * LANES)

    bits = b.bitcast(x, pairs)
    empty = b.icmp_unsigned("==", b.and_(bits, constant(0x7F800000)), constant(0))
    return b.bitcast(b.select(empty, b.and_(bits, constant(0x80000000)), bits), ROW_TYPES["p"])


def fused(b, x, y, z):
    return call(b, "fma", x, y, z)


def float_compare(condition: str, ordered: bool):
    def build(b, x, y):
        return flag(b, (b.fcmp_ordered if ordered else b.fcmp_unordered)(condition, x, y))

    return build


def extremum(want_max: bool, propagate: bool):
    """min, max: -0 is below +0. A NaN loses, or with `propagate` (.NaN) wins; the result is the canonical NaN."""

    def build(b, x, y):
        bits_x, bits_y = as_int(b, x), as_int(b, y)
        x_below = b.or_(
            b.fcmp_ordered("<", x, y), b.and_(b.fcmp_ordered("==", x, y), b.icmp_unsigned(">", bits_x, bits_y))
        )
        chosen = b.select(x_below, bits_y, bits_x) if want_max else b.select(x_below, bits_x, bits_y)
        nan_x, nan_y = b.fcmp_unordered("uno", x, x), b.fcmp_unordered("uno", y, y)
        if propagate:
            is_nan = b.or_(nan_x, nan_y)
        else:
            chosen = b.select(nan_x, bits_y, chosen)
            chosen = b.select(nan_y, bits_x, chosen)
            is_nan = b.and_(nan_x, nan_y)
        return as_float(b, b.select(is_nan, splat("i", CANONICAL_NAN), chosen))

    return build


def exp2(b, x):
    """2**x rounded from fp64: below 0.51 ulp. Range reduction to [-0.5, 0.5], then the Taylor polynomial."""
    wide = ROW_TYPES["d"]
    y = b.fpext(x, wide)
    y = b.select(b.fcmp_ordered(">", y, splat("d", 160.0)), splat("d", 160.0), y)
    y = b.select(b.fcmp_unordered("<", y, splat("d", -160.0)), splat("d", -160.0), y)
    n = call(b, "floor", b.fadd(y, splat("d", 0.5)))
    f = b.fmul(b.fsub(y, n), splat("d", 0.6931471805599453))
    p = splat("d", 1 / 40320)
    for coefficient in (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        p = b.fadd(b.fmul(p, f), splat("d", coefficient))
    exponent = b.add(b.fptosi(n, ROW_TYPES["i"]), splat("i", 1023))
    scale = b.bitcast(b.shl(b.zext(exponent, ROW_TYPES["l"]), splat("l", 52)), wide)
    result = b.fptrunc(b.fmul(p, scale), ROW_TYPES["f"])
    return b.select(b.fcmp_unordered("uno", x, x), nan_row(), result)


def nan_row() -> ir.Constant:
    return splat("f", struct.unpack("<f", struct.pack("<I", 0x7FC00000))[0])


def saturate(b, x):
    """Clamped to [0, 1]; NaN gives +0."""
    zero, one = splat("f", 0.0), splat("f", 1.0)
    low = b.select(b.fcmp_ordered(">", x, zero), x, zero)
    return b.select(b.fcmp_ordered(">", low, one), one, low)


def relu(b, x):
    keep = b.fcmp_unordered(">", x, splat("f", 0.0))
    return b.select(keep, x, splat("f", 0.0))


def reciprocal(b, x):
    wide = ROW_TYPES["d"]
    return b.fptrunc(b.fdiv(splat("d", 1.0), b.fpext(x, wide)), ROW_TYPES["f"])


def reciprocal_root(b, x):
    wide = ROW_TYPES["d"]
    return b.fptrunc(b.fdiv(splat("d", 1.0), call(b, "sqrt", b.fpext(x, wide))), ROW_TYPES["f"])


def to_bf16(b, x):
    """Round to nearest even; NaN gives 0x7FFF."""
    bits = as_int(b, x)
    odd = b.and_(b.lshr(bits, splat("i", 16)), splat("i", 1))
    rounded = b.lshr(b.add(b.add(bits, splat("i", 0x7FFF)), odd), splat("i", 16))
    return b.select(b.fcmp_unordered("uno", x, x), splat("i", 0x7FFF), rounded)


def to_f16(b, x):
    """Round to nearest even; NaN gives 0x7FFF. Adding 0.5 makes the machine round at 2**-24, the unit of fp16
    subnormals."""
    bits = as_int(b, x)
    size = b.and_(bits, splat("i", 0x7FFFFFFF))
    odd = b.and_(b.lshr(size, splat("i", 13)), splat("i", 1))
    normal = b.lshr(b.add(b.add(size, splat("i", 0xC8000FFF)), odd), splat("i", 13))
    infinity = splat("i", 0x7C00)
    too_large = b.or_(b.icmp_unsigned(">=", size, splat("i", 0x47800000)), b.icmp_unsigned(">", normal, infinity))
    normal = b.select(too_large, infinity, normal)
    small = b.sub(as_int(b, b.fadd(as_float(b, size), splat("f", 0.5))), splat("i", 0x3F000000))
    result = b.select(b.icmp_unsigned("<", size, splat("i", 0x38800000)), small, normal)
    result = b.or_(result, b.and_(b.lshr(bits, splat("i", 16)), splat("i", 0x8000)))
    return b.select(b.icmp_unsigned(">", size, splat("i", 0x7F800000)), splat("i", 0x7FFF), result)


def from_f16(b, bits):
    """Exact. Scaling by 2**112 turns an fp16 exponent, also that of a subnormal, into an fp32 one."""
    size = b.and_(bits, splat("i", 0x7FFF))
    value = b.fmul(as_float(b, b.shl(size, splat("i", 13))), splat("f", 2.0**112))
    special = b.icmp_unsigned(">=", size, splat("i", 0x7C00))
    result = b.select(special, b.or_(as_int(b, value), splat("i", 0x7F800000)), as_int(b, value))
    sign = b.shl(b.and_(bits, splat("i", 0x8000)), splat("i", 16))
    return as_float(b, b.or_(result, sign))


def float_table() -> dict:
    table = {
        mc.FADD: ("fff", binary("fadd")),
        mc.FSUB: ("fff", binary("fsub")),
        mc.FMUL: ("fff", binary("fmul")),
        mc.FFMA: ("ffff", fused),
        mc.FDIV: ("fff", binary("fdiv")),
        mc.FMIN: ("fff", extremum(False, False)),
        mc.FMAX: ("fff", extremum(True, False)),
        mc.FMIN_NAN: ("fff", extremum(False, True)),
        mc.FMAX_NAN: ("fff", extremum(True, True)),
        mc.FTZ: ("ii", flush),
        mc.FSAT: ("ff", saturate),
        mc.FRELU: ("ff", relu),
        mc.EX2: ("ff", exp2),
        mc.RCP: ("ff", reciprocal),
        mc.RSQRT: ("ff", reciprocal_root),
        mc.SQRT: ("ff", lambda b, x: call(b, "sqrt", x)),
        mc.FADD2: ("ppp", binary("fadd")),
        mc.FSUB2: ("ppp", binary("fsub")),
        mc.FMUL2: ("ppp", binary("fmul")),
        mc.FFMA2: ("pppp", fused),
        mc.FTZ2: ("pp", flush_pairs),
        mc.DADD: ("ddd", binary("fadd")),
        mc.DSUB: ("ddd", binary("fsub")),
        mc.DMUL: ("ddd", binary("fmul")),
        mc.DFMA: ("dddd", fused),
        mc.DDIV: ("ddd", binary("fdiv")),
        mc.DSQRT: ("dd", lambda b, x: call(b, "sqrt", x)),
        mc.CVT_BF16: ("if", to_bf16),
        mc.CVT_F16: ("if", to_f16),
        mc.BF16_F32: ("ii", lambda b, x: b.shl(x, splat("i", 16))),
        mc.F32_F64: ("df", lambda b, x: b.fpext(x, ROW_TYPES["d"])),
        mc.F16_F32: ("fi", from_f16),
        mc.CVT_S32_F32: ("fi", lambda b, x: b.sitofp(x, ROW_TYPES["f"])),
        mc.CVT_U32_F32: ("fi", lambda b, x: b.uitofp(x, ROW_TYPES["f"])),
        mc.CVT_F64_F32: ("fd", lambda b, x: b.fptrunc(x, ROW_TYPES["f"])),
        mc.S32_F64: ("di", lambda b, x: b.sitofp(x, ROW_TYPES["d"])),
        mc.U32_F64: ("di", lambda b, x: b.uitofp(x, ROW_TYPES["d"])),
        mc.CLAMP_S: ("iiii", lambda b, x, low, high: pick("<", True)(b, pick(">", True)(b, x, low), high)),
    }
    for prefix, row in (("F", "f"), ("D", "d")):
        for name, condition, ordered in (
            ("EQ", "==", True),
            ("LT", "<", True),
            ("LE", "<=", True),
            ("NEQ", "!=", True),
            ("NUM", "ord", True),
            ("EQU", "==", False),
            ("LTU", "<", False),
            ("LEU", "<=", False),
        ):
            table[getattr(mc, prefix + name)] = ("i" + 2 * row, float_compare(condition, ordered))
    return table
