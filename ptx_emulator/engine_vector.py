"""The micro-operations that work on all 32 lanes at once, as LLVM vector code.

Each operation is one entry of a table: a builder of LLVM instructions on 32-element vectors. From the tables one
function is generated that switches on the operation, loads the source rows as vectors, builds the result and
blends it into the destination row by lane mask. Written as Python loops the same operations compile ten times
slower and run at half the speed.

Row types: i = 32 x i32, l = 32 x i64, f = 32 x float, d = 32 x double, p = 64 x float (the pairs of an r64 row).
"""

from __future__ import annotations

import struct

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import microcode as mc

LANES = 32
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
ROW_TYPES = {
    "i": ir.VectorType(I32, LANES), "l": ir.VectorType(I64, LANES), "f": ir.VectorType(F32, LANES),
    "d": ir.VectorType(F64, LANES), "p": ir.VectorType(F32, 2 * LANES),
}  # fmt: skip
ROW_BYTES = {"i": 128, "f": 128, "l": 256, "d": 256, "p": 256}
BOOLS = ir.VectorType(I1, LANES)
CANONICAL_NAN = 0x7FFFFFFF


def splat(kind: str, value) -> ir.Constant:
    """A vector constant of row type `kind`."""
    vector = ROW_TYPES[kind]
    return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)


def call(b, name: str, *args):
    """A vector intrinsic of LLVM, overloaded on its first argument's type."""
    vector = args[0].type
    suffix = {I32: "i32", I64: "i64", F32: "f32", F64: "f64"}[vector.element]
    full = f"llvm.{name}.v{vector.count}{suffix}"
    function = b.module.globals.get(full)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(vector, [a.type for a in args]), full)
    return b.call(function, args)


def flag(b, bits):
    """Booleans as rows of 0 and 1."""
    return b.zext(bits, ROW_TYPES["i"])


def as_int(b, x):
    return b.bitcast(x, ROW_TYPES["i"])


def as_float(b, x):
    return b.bitcast(x, ROW_TYPES["f"])


# Integer operations (PTX ISA 9.7.1, 9.7.6, 9.7.8).


def shift(operation: str, bits: int):
    """shl, lshr or ashr that clamps its count at the width."""
    kind = "i" if bits == 32 else "l"

    def build(b, x, count):
        limit = splat("i", bits)
        inside = b.icmp_unsigned("<", count, limit)
        if operation == "ashr":
            count = b.select(inside, count, splat("i", bits - 1))
        else:
            count = b.select(inside, count, splat("i", 0))
        if bits == 64:
            count = b.zext(count, ROW_TYPES["l"])
        shifted = getattr(b, operation)(x, count)
        return shifted if operation == "ashr" else b.select(inside, shifted, splat(kind, 0))

    return build


def compare(condition: str, signed: bool):
    def build(b, x, y):
        return flag(b, (b.icmp_signed if signed else b.icmp_unsigned)(condition, x, y))

    return build


def pick(condition: str, signed: bool):
    """min and max."""

    def build(b, x, y):
        return b.select((b.icmp_signed if signed else b.icmp_unsigned)(condition, x, y), x, y)

    return build


def select(b, x, y, p):
    return b.select(b.trunc(p, BOOLS), x, y)


def mul_high(extend: str):
    def build(b, x, y):
        wide = ROW_TYPES["l"]
        product = b.mul(getattr(b, extend)(x, wide), getattr(b, extend)(y, wide))
        return b.trunc(b.lshr(product, splat("l", 32)), ROW_TYPES["i"])

    return build


def mul_wide(extend: str):
    def build(b, x, y, addend=None):
        wide = ROW_TYPES["l"]
        product = b.mul(getattr(b, extend)(x, wide), getattr(b, extend)(y, wide))
        return product if addend is None else b.add(product, addend)

    return build


def magnitude(kind: str):
    def build(b, x):
        negative = b.icmp_signed("<", x, splat(kind, 0))
        return b.select(negative, b.sub(splat(kind, 0), x), x)

    return build


def negate(kind: str):
    def build(b, x):
        return b.sub(splat(kind, 0), x)

    return build


def invert(kind: str):
    def build(b, x):
        return b.xor(x, splat(kind, -1))

    return build


def sign_extend_low(bits: int):
    def build(b, x):
        up = splat("i", 32 - bits)
        return b.ashr(b.shl(x, up), up)

    return build


def keep_low(bits: int):
    def build(b, x):
        return b.and_(x, splat("i", (1 << bits) - 1))

    return build


def pack64(b, low, high):
    wide = ROW_TYPES["l"]
    return b.or_(b.zext(low, wide), b.shl(b.zext(high, wide), splat("l", 32)))


def pack16(b, low, high):
    return b.or_(b.and_(low, splat("i", 0xFFFF)), b.shl(high, splat("i", 16)))


def binary(method: str):
    def build(b, *args):
        return getattr(b, method)(*args)

    return build


def integer_table() -> dict:
    table = {
        mc.MOV: ("ii", lambda b, x: x), mc.ADD: ("iii", binary("add")), mc.SUB: ("iii", binary("sub")),
        mc.MUL: ("iii", binary("mul")), mc.MAD: ("iiii", lambda b, x, y, z: b.add(b.mul(x, y), z)),
        mc.MULHI_S: ("iii", mul_high("sext")), mc.MULHI_U: ("iii", mul_high("zext")),
        mc.AND: ("iii", binary("and_")), mc.OR: ("iii", binary("or_")), mc.XOR: ("iii", binary("xor")),
        mc.NOT: ("ii", invert("i")), mc.NEG: ("ii", negate("i")), mc.ABS: ("ii", magnitude("i")),
        mc.SHL: ("iii", shift("shl", 32)), mc.SHR_U: ("iii", shift("lshr", 32)), mc.SHR_S: ("iii", shift("ashr", 32)),
        mc.SELP: ("iiii", select), mc.CARRY: ("iii", compare("<", False)),
        mc.POPC: ("ii", lambda b, x: call(b, "ctpop", x)), mc.BREV: ("ii", lambda b, x: call(b, "bitreverse", x)),
        mc.SEXT8: ("ii", sign_extend_low(8)), mc.SEXT16: ("ii", sign_extend_low(16)), mc.ZEXT8: ("ii", keep_low(8)),
        mc.ZEXT16: ("ii", keep_low(16)), mc.PACK16: ("iii", pack16),
        mc.HIGH16: ("ii", lambda b, x: b.lshr(x, splat("i", 16))),
        mc.XMOV: ("ll", lambda b, x: x), mc.XADD: ("lll", binary("add")), mc.XSUB: ("lll", binary("sub")),
        mc.XMUL: ("lll", binary("mul")), mc.XMAD: ("llll", lambda b, x, y, z: b.add(b.mul(x, y), z)),
        mc.XAND: ("lll", binary("and_")), mc.XOR64: ("lll", binary("or_")), mc.XXOR: ("lll", binary("xor")),
        mc.XNOT: ("ll", invert("l")), mc.XNEG: ("ll", negate("l")), mc.XABS: ("ll", magnitude("l")),
        mc.XSHL: ("lli", shift("shl", 64)), mc.XSHR_U: ("lli", shift("lshr", 64)),
        mc.XSHR_S: ("lli", shift("ashr", 64)), mc.XSELP: ("llli", select), mc.XCARRY: ("ill", compare("<", False)),
        mc.MULW_S: ("lii", mul_wide("sext")), mc.MULW_U: ("lii", mul_wide("zext")),
        mc.MADW_S: ("liil", mul_wide("sext")), mc.MADW_U: ("liil", mul_wide("zext")),
        mc.PACK64: ("lii", pack64), mc.LOW32: ("il", lambda b, x: b.trunc(x, ROW_TYPES["i"])),
        mc.HIGH32: ("il", lambda b, x: b.trunc(b.lshr(x, splat("l", 32)), ROW_TYPES["i"])),
        mc.SEXT64: ("li", lambda b, x: b.sext(x, ROW_TYPES["l"])),
        mc.ZEXT64: ("li", lambda b, x: b.zext(x, ROW_TYPES["l"])),
    }  # fmt: skip
    for prefix, rows, out in (("", "ii", "i"), ("X", "ll", "i")):
        for name, condition, signed in (("EQ", "==", False), ("NE", "!=", False), ("LT_S", "<", True), ("LE_S", "<=", True),
                                        ("LT_U", "<", False), ("LE_U", "<=", False)):  # fmt: skip
            table[getattr(mc, f"{prefix}S{name}")] = (out + rows, compare(condition, signed))
        for name, condition in (("MIN", "<"), ("MAX", ">")):
            table[getattr(mc, f"{prefix}{name}_S")] = (rows[0] + rows, pick(condition, True))
            table[getattr(mc, f"{prefix}{name}_U")] = (rows[0] + rows, pick(condition, False))
    return table


# Floating point (PTX ISA 9.7.3-9.7.6).


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
        x_below = b.or_(b.fcmp_ordered("<", x, y),
                        b.and_(b.fcmp_ordered("==", x, y), b.icmp_unsigned(">", bits_x, bits_y)))  # fmt: skip
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
        mc.FADD: ("fff", binary("fadd")), mc.FSUB: ("fff", binary("fsub")), mc.FMUL: ("fff", binary("fmul")),
        mc.FFMA: ("ffff", fused), mc.FDIV: ("fff", binary("fdiv")),
        mc.FMIN: ("fff", extremum(False, False)), mc.FMAX: ("fff", extremum(True, False)),
        mc.FMIN_NAN: ("fff", extremum(False, True)), mc.FMAX_NAN: ("fff", extremum(True, True)),
        mc.FTZ: ("ii", flush), mc.FSAT: ("ff", saturate), mc.FRELU: ("ff", relu), mc.EX2: ("ff", exp2),
        mc.RCP: ("ff", reciprocal), mc.RSQRT: ("ff", reciprocal_root), mc.SQRT: ("ff", lambda b, x: call(b, "sqrt", x)),
        mc.FADD2: ("ppp", binary("fadd")), mc.FSUB2: ("ppp", binary("fsub")), mc.FMUL2: ("ppp", binary("fmul")),
        mc.FFMA2: ("pppp", fused), mc.FTZ2: ("pp", flush_pairs),
        mc.DADD: ("ddd", binary("fadd")), mc.DSUB: ("ddd", binary("fsub")), mc.DMUL: ("ddd", binary("fmul")),
        mc.DFMA: ("dddd", fused), mc.DDIV: ("ddd", binary("fdiv")),
        mc.DSQRT: ("dd", lambda b, x: call(b, "sqrt", x)),
        mc.CVT_BF16: ("if", to_bf16), mc.CVT_F16: ("if", to_f16),
        mc.BF16_F32: ("ii", lambda b, x: b.shl(x, splat("i", 16))),
        mc.F32_F64: ("df", lambda b, x: b.fpext(x, ROW_TYPES["d"])),
        mc.F16_F32: ("fi", from_f16),
        mc.CVT_S32_F32: ("fi", lambda b, x: b.sitofp(x, ROW_TYPES["f"])),
        mc.CVT_U32_F32: ("fi", lambda b, x: b.uitofp(x, ROW_TYPES["f"])),
        mc.CVT_F64_F32: ("fd", lambda b, x: b.fptrunc(x, ROW_TYPES["f"])),
        mc.S32_F64: ("di", lambda b, x: b.sitofp(x, ROW_TYPES["d"])),
        mc.U32_F64: ("di", lambda b, x: b.uitofp(x, ROW_TYPES["d"])),
        mc.CLAMP_S: ("iiii", lambda b, x, low, high: pick("<", True)(b, pick(">", True)(b, x, low), high)),
    }  # fmt: skip
    for prefix, row in (("F", "f"), ("D", "d")):
        for name, condition, ordered in (("EQ", "==", True), ("LT", "<", True), ("LE", "<=", True), ("NEQ", "!=", True),
                                         ("NUM", "ord", True), ("EQU", "==", False), ("LTU", "<", False),
                                         ("LEU", "<=", False)):  # fmt: skip
            table[getattr(mc, prefix + name)] = ("i" + 2 * row, float_compare(condition, ordered))
    return table


TABLE = {**integer_table(), **float_table()}


def _row_pointer(b, base32, base64, kind: str, index):
    """Pointer to row `index` of the file that holds rows of type `kind`."""
    base = base32 if kind in "if" else base64
    address = b.add(base, b.mul(index, ir.Constant(I64, ROW_BYTES[kind])))
    return b.inttoptr(address, ROW_TYPES[kind].as_pointer())


def _load(b, pointer, kind: str):
    value = b.load(pointer)
    value.align = 8 if kind in "ld" else 4
    return value


@intrinsic
def execute(typingctx, operation, p32, p64, c0, c1, c2, c3, mask):
    """Carries out `operation` on rows c0 (destination), c1, c2, c3 in the lanes of `mask`; all int64.

    Returns 1, or 0 if the operation is not in the table (then nothing was done).
    """
    signature = types.int64(*[types.int64] * 8)

    def codegen(context, b, sig, args):
        op, base32, base64, *columns, lanes = args
        lane_bits = b.bitcast(b.trunc(lanes, I32), BOOLS)
        result = b.alloca(I64)
        b.store(ir.Constant(I64, 1), result)
        end, missing = b.append_basic_block("end"), b.append_basic_block("missing")
        switch = b.switch(op, missing)
        for number, (kinds, build) in TABLE.items():
            block = b.append_basic_block(mc.NAMES[number])
            switch.add_case(ir.Constant(I64, number), block)
            b.position_at_end(block)
            sources = [_load(b, _row_pointer(b, base32, base64, kind, column), kind)
                       for kind, column in zip(kinds[1:], columns[1:], strict=False)]  # fmt: skip
            value = build(b, *sources)
            kind = kinds[0]
            target = _row_pointer(b, base32, base64, kind, columns[0])
            if kind == "p":
                value, kind = b.bitcast(value, ROW_TYPES["l"]), "l"
                target = b.bitcast(target, ROW_TYPES["l"].as_pointer())
            store = b.store(b.select(lane_bits, value, _load(b, target, kind)), target)
            store.align = 8 if kind in "ld" else 4
            b.branch(end)
        b.position_at_end(missing)
        b.store(ir.Constant(I64, 0), result)
        b.branch(end)
        b.position_at_end(end)
        return b.load(result)

    return signature, codegen
