"""Floating-point arithmetic and comparison (PTX ISA 9.7.3-9.7.6): fp32, f32x2, fp64, fp16, bf16."""

from __future__ import annotations

from ...engine import microcode as mc
from ...registry import lower, unsupported
from .modifiers import Modifiers, expect_operands

FLOATS = ("f32", "f32x2", "f64", "f16", "f16x2", "bf16", "bf16x2")
ROUNDINGS = ("rn", "rz", "rm", "rp")
BF16, HALF_FTZ, PAIR = 1, 2, 4  # flags of the half-precision micro-operations


def f32_source(e, operand, ftz: bool) -> int:
    """Source row of an fp32 operand, subnormals flushed to signed zero where `ftz`."""
    row = e.r32(operand, f32=True)
    if not ftz:
        return row
    t = e.temp32()
    e.emit(mc.FTZ, t, row)
    return t


def finish_f32(e, row: int, ftz: bool, saturate: bool) -> None:
    if ftz:
        e.emit(mc.FTZ, row, row)
    if saturate:
        e.emit(mc.FSAT, row, row)


def half_flags(kind: str, ftz: bool = False) -> int:
    return (BF16 if kind.startswith("bf16") else 0) | (HALF_FTZ if ftz else 0) | (PAIR if kind.endswith("x2") else 0)


def _arithmetic(name: str, n_sources: int):
    """add, sub, mul, fma of every floating type, and of fp16 or bf16 with an fp32 addend (PTX ISA 9.7.5)."""

    def emit(e, inst):
        m = Modifiers(inst)
        kind = m.kind(*FLOATS)
        rounding = m.choice(*ROUNDINGS, default="rn")
        ftz, saturate, relu = m.flag("ftz"), m.flag("sat"), m.flag("relu")
        mixed = kind in ("f16", "bf16") and name != "MUL" and m.flag("f32")
        m.done()
        expect_operands(inst, n_sources + 1)
        d, *sources = inst.operands
        if mixed:
            if ftz or relu:
                raise unsupported(inst, f"{inst.opcode}: mixed precision takes .sat and a rounding mode only")
            rows = [_widened(e, s, kind) for s in sources[:-1]] + [f32_source(e, sources[-1], False)]
            _single(e, name, d, rows, False, saturate, ROUNDINGS.index(rounding))
            return
        if kind == "f64":
            if ftz or saturate or relu or rounding != "rn":
                raise unsupported(inst, f"{inst.opcode}: only .rn is implemented for .f64")
            e.emit(getattr(mc, f"D{name}"), e.d64(d), *(e.r64(s, f64=True) for s in sources))
        elif kind == "f32x2":
            if saturate or relu:
                raise unsupported(inst, f"{inst.opcode}: .f32x2 takes .ftz and a rounding mode only")
            _packed(e, name, d, sources, ftz, ROUNDINGS.index(rounding))
        elif kind == "f32":
            if relu:
                raise unsupported(inst, f"{inst.opcode}: .relu needs a half-precision type")
            _single(e, name, d, [f32_source(e, s, ftz) for s in sources], ftz, saturate, ROUNDINGS.index(rounding))
        else:
            if rounding != "rn" or saturate:
                raise unsupported(inst, f"{inst.opcode}: only .rn without .sat is implemented for .{kind}")
            _half(e, name, kind, d, sources, ftz, relu)

    return emit


def _widened(e, operand, kind: str) -> int:
    """An fp32 row with the value of an fp16 or bf16 operand (mixed precision, PTX ISA 9.7.5)."""
    t = e.temp32()
    e.emit(mc.BF16_F32 if kind == "bf16" else mc.F16_F32, t, e.r32(operand))
    return t


def _single(e, name: str, d, rows: list[int], ftz: bool, saturate: bool, mode: int) -> None:
    row = e.d32(d)
    if mode == 0:
        e.emit(getattr(mc, f"F{name}"), row, *rows)
    else:
        if name == "SUB":
            negated = e.temp32()
            e.emit(mc.XOR, negated, rows[1], e.const32(0x80000000))
            rows[1], name = negated, "ADD"
        e.emit(getattr(mc, f"F{name}_R"), row, *rows, mode)
    finish_f32(e, row, ftz, saturate)


def _packed(e, name: str, d, sources, ftz: bool, mode: int) -> None:
    rows = []
    for s in sources:
        row = e.r64(s)
        if ftz:
            t = e.temp64()
            e.emit(mc.FTZ2, t, row)
            row = t
        rows.append(row)
    row = e.d64(d)
    if mode == 0:
        e.emit(getattr(mc, f"F{name}2"), row, *rows)
    else:
        if name == "SUB":
            negated = e.temp64()
            e.emit(mc.XXOR, negated, rows[1], e.const64(0x8000000080000000))
            rows[1], name = negated, "ADD"
        e.emit(getattr(mc, f"F{name}2_R"), row, *rows, mode)
    if ftz:
        e.emit(mc.FTZ2, row, row)


def _half(e, name: str, kind: str, d, sources, ftz: bool, relu: bool) -> None:
    flags = half_flags(kind, ftz)
    rows = [e.r32(s) for s in sources]
    if name == "SUB":
        negated = e.temp32()
        e.emit(mc.XOR, negated, rows[1], e.const32(0x80008000 if flags & PAIR else 0x8000))
        rows[1], name = negated, "ADD"
    row = e.d32(d)
    e.emit(getattr(mc, f"H{name}"), row, *rows, flags)
    if relu:
        e.emit(mc.HRELU, row, row, flags)


lower("add", types=FLOATS)(_arithmetic("ADD", 2))
lower("sub", types=FLOATS)(_arithmetic("SUB", 2))
lower("mul", types=FLOATS)(_arithmetic("MUL", 2))
lower("fma", types=FLOATS)(_arithmetic("FMA", 3))
lower("mad", types=("f32", "f64"))(_arithmetic("FMA", 3))


@lower("min", "max", types=("f32", "f64", "f16", "f16x2", "bf16", "bf16x2"))
def _min_max(e, inst):
    m = Modifiers(inst)
    kind = m.kind()
    ftz, nan, xorsign, absolute = m.flag("ftz"), m.flag("NaN"), m.flag("xorsign"), m.flag("abs")
    m.done()
    if xorsign:
        raise unsupported(inst, f"{inst.name}: .xorsign is not implemented")
    expect_operands(inst, 3, 4)
    d, *sources = inst.operands
    if len(sources) == 3 and kind != "f32":
        raise unsupported(inst, f"{inst.name} of three inputs needs .f32")
    if kind == "f64":
        if ftz or nan or absolute:
            raise unsupported(inst, f"{inst.opcode}: no modifiers are allowed for .f64")
        e.emit(getattr(mc, f"D{inst.name.upper()}"), e.d64(d), *(e.r64(s, f64=True) for s in sources))
        return
    suffix = "_NAN" if nan else ""
    if kind != "f32":
        if absolute:
            raise unsupported(inst, f"{inst.opcode}: .abs needs .f32")
        e.emit(getattr(mc, f"H{inst.name.upper()}{suffix}"), e.d32(d), *(e.r32(s) for s in sources),
               half_flags(kind, ftz))  # fmt: skip
        return
    rows = []
    for s in sources:
        row = f32_source(e, s, ftz)
        if absolute:
            t = e.temp32()
            e.emit(mc.AND, t, row, e.const32(0x7FFFFFFF))
            row = t
        rows.append(row)
    op = getattr(mc, f"F{inst.name.upper()}{suffix}")
    if len(rows) == 3:
        t = e.temp32()
        e.emit(op, t, rows[0], rows[1])
        rows = [t, rows[2]]
    e.emit(op, e.d32(d), *rows)


@lower("neg", "abs", types=("f32", "f64", "f16", "f16x2", "bf16", "bf16x2"))
def _sign(e, inst):
    m = Modifiers(inst)
    kind = m.kind()
    ftz = m.flag("ftz")
    m.done()
    expect_operands(inst, 2)
    d, a = inst.operands
    negate = inst.name == "neg"
    if kind == "f64":
        if negate:
            e.emit(mc.XXOR, e.d64(d), e.r64(a, f64=True), e.const64(1 << 63))
        else:
            e.emit(mc.XAND, e.d64(d), e.r64(a, f64=True), e.const64((1 << 63) - 1))
        return
    sign = {"f32": 1 << 31, "f16": 1 << 15, "bf16": 1 << 15}.get(kind, 0x80008000)
    if ftz and kind != "f32":
        raise unsupported(inst, f"{inst.opcode}: .ftz is implemented for .f32 only")
    row = e.d32(d)
    full = 0xFFFFFFFF if kind in ("f32", "f16x2", "bf16x2") else 0xFFFF
    if negate:
        e.emit(mc.XOR, row, f32_source(e, a, ftz), e.const32(sign))
    else:
        e.emit(mc.AND, row, f32_source(e, a, ftz), e.const32(full & ~sign))


@lower("copysign", types=("f32",))
def _copysign(e, inst):
    Modifiers(inst).kind("f32")
    expect_operands(inst, 3)
    d, a, b = inst.operands
    magnitude, sign = e.temp32(), e.temp32()
    e.emit(mc.AND, magnitude, e.r32(b, f32=True), e.const32(0x7FFFFFFF))
    e.emit(mc.AND, sign, e.r32(a, f32=True), e.const32(0x80000000))
    e.emit(mc.OR, e.d32(d), magnitude, sign)


@lower("ex2", "lg2", "sin", "cos", "tanh", "rcp", "rsqrt", "sqrt")
def _unary(e, inst):
    """Approximations are rounded once from fp64: within the bounds of PTX ISA 9.7.3, but not the hardware's
    own bits."""
    m = Modifiers(inst)
    kind = m.kind("f32", "f64", "f16", "f16x2", "bf16", "bf16x2")
    approx = m.flag("approx")
    ftz = m.flag("ftz")
    rounding = m.choice(*ROUNDINGS, default="rn")
    m.done()
    expect_operands(inst, 2)
    d, a = inst.operands
    exact = inst.name in ("rcp", "sqrt")
    if not approx and not exact:
        raise unsupported(inst, f"{inst.name} exists only as .approx")
    if kind == "f64":
        _unary64(e, inst, d, a, rounding)
        return
    if kind != "f32":
        if inst.name not in ("ex2", "tanh"):
            raise unsupported(inst, f"{inst.name} has no .{kind}")
        e.emit(mc.HEX2 if inst.name == "ex2" else mc.HTANH, e.d32(d), e.r32(a), half_flags(kind, ftz))
        return
    row, mode = e.d32(d), ROUNDINGS.index(rounding)
    # An approximation flushes subnormal input whatever its .ftz where the ISA table says so (lg2, sqrt, rsqrt
    # keep it: "subnormal inputs are supported").
    rows = f32_source(e, a, ftz)
    if mode and not approx:
        e.emit(getattr(mc, f"{inst.name.upper()}_R"), row, rows, mode)
    else:
        e.emit(getattr(mc, inst.name.upper()), row, rows)
    finish_f32(e, row, ftz, False)


def _unary64(e, inst, d, a, rounding: str) -> None:
    if rounding != "rn":
        raise unsupported(inst, f"{inst.opcode}: only .rn is implemented for .f64")
    row = e.r64(a, f64=True)
    if inst.name == "sqrt":
        e.emit(mc.DSQRT, e.d64(d), row)
    elif inst.name == "rcp":
        e.emit(mc.DDIV, e.d64(d), e.const64(0x3FF0000000000000), row)
    elif inst.name == "rsqrt":
        e.emit(mc.DRSQRT, e.d64(d), row)
    else:
        raise unsupported(inst, f"{inst.name} has no .f64")


@lower("div", types=("f32", "f64"))
def _div(e, inst):
    m = Modifiers(inst)
    kind = m.kind()
    form = m.choice("approx", "full", *ROUNDINGS)
    ftz = m.flag("ftz")
    m.done()
    expect_operands(inst, 3)
    d, a, b = inst.operands
    if kind == "f64":
        if form != "rn":
            raise unsupported(inst, f"{inst.opcode}: only .rn is implemented for .f64")
        e.emit(mc.DDIV, e.d64(d), e.r64(a, f64=True), e.r64(b, f64=True))
        return
    rows = [f32_source(e, a, ftz), f32_source(e, b, ftz)]
    row = e.d32(d)
    if form in ("rz", "rm", "rp"):
        e.emit(mc.FDIV_R, row, *rows, ROUNDINGS.index(form))
    else:
        e.emit(mc.FDIV, row, *rows)
    finish_f32(e, row, ftz, False)


ORDERED = {"eq": "EQ", "ne": "NEQ", "lt": "LT", "le": "LE", "equ": "EQU", "neu": "EQ", "ltu": "LTU", "leu": "LEU",
           "num": "NUM", "nan": "NUM"}  # fmt: skip
MIRRORED = {"gt": "lt", "ge": "le", "gtu": "ltu", "geu": "leu"}


def compare_floats(e, comparison: str, kind: str, a, b, ftz: bool) -> int:
    """A fresh predicate row with `a comparison b`. Plain comparisons are false for NaN, the `u` forms true;
    `neu` is the opposite of `eq`, `nan` of `num`."""
    if kind == "f64":
        rows = [e.r64(a, f64=True), e.r64(b, f64=True)]
    elif kind == "f32":
        rows = [f32_source(e, a, ftz), f32_source(e, b, ftz)]
    else:
        if ftz:
            raise e.error(f"comparison of .{kind} with .ftz is not implemented")
        rows = []
        for operand in (a, b):
            t = e.temp32()
            e.emit(mc.BF16_F32 if kind == "bf16" else mc.F16_F32, t, e.r32(operand))
            rows.append(t)
    if comparison in MIRRORED:
        comparison = MIRRORED[comparison]
        rows.reverse()
    if comparison not in ORDERED:
        raise e.error(f"comparison .{comparison} is not implemented for .{kind}")
    p = e.temp32()
    e.emit(getattr(mc, ("D" if kind == "f64" else "F") + ORDERED[comparison]), p, *rows)
    if comparison in ("neu", "nan"):
        e.emit(mc.XOR, p, p, e.const32(1))
    return p


@lower("testp", types=("f32",))
def _testp(e, inst):
    m = Modifiers(inst)
    m.kind("f32")
    test = m.choice("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    m.done()
    expect_operands(inst, 2)
    p, a = inst.operands
    magnitude, row = e.temp32(), e.d32(p)
    e.emit(mc.AND, magnitude, e.r32(a, f32=True), e.const32(0x7FFFFFFF))
    infinity, smallest = e.const32(0x7F800000), e.const32(0x00800000)
    if test == "infinite":
        e.emit(mc.SEQ, row, magnitude, infinity)
    elif test == "notanumber":
        e.emit(mc.SLT_U, row, infinity, magnitude)
    elif test == "number":
        e.emit(mc.SLE_U, row, magnitude, infinity)
    elif test == "finite":
        e.emit(mc.SLT_U, row, magnitude, infinity)
    else:
        t, u = e.temp32(), e.temp32()
        if test == "normal":
            e.emit(mc.SLT_U, t, magnitude, infinity)
            e.emit(mc.SLE_U, u, smallest, magnitude)
        else:
            e.emit(mc.SLT_U, t, magnitude, smallest)
            e.emit(mc.SNE, u, magnitude, e.const32(0))
        e.emit(mc.AND, row, t, u)
