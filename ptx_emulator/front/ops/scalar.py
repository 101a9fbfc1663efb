"""Integer arithmetic (PTX ISA 9.7.1, 9.7.2), and what other families share: operand rows by type."""

from __future__ import annotations

from ...engine import microcode as mc
from ...registry import lower, unsupported
from .modifiers import Modifiers, expect_operands

INTEGERS = ("u16", "s16", "u32", "s32", "u64", "s64")


def is_wide(kind: str) -> bool:
    return kind.endswith("64") or kind == "f32x2"


def source(e, kind: str, operand) -> int:
    """Source row; a signed 16-bit value is sign-extended to 32 bits first."""
    if is_wide(kind):
        return e.r64(operand)
    row = e.r32(operand)
    if kind == "s16":
        t = e.temp32()
        e.emit(mc.SEXT16, t, row)
        return t
    return row


def destination(e, kind: str, operand) -> int:
    return e.d64(operand) if is_wide(kind) else e.d32(operand)


def trim(e, kind: str, row: int) -> None:
    """Keeps 16 bits of a result of a 16-bit type."""
    if kind in ("u16", "s16", "b16"):
        e.emit(mc.ZEXT16, row, row)


def _binary(op32: int, op64: int, kinds=INTEGERS):
    def emit(e, inst):
        m = Modifiers(inst)
        kind = m.kind(*kinds)
        m.done()
        expect_operands(inst, 3)
        d, a, b = inst.operands
        row = destination(e, kind, d)
        e.emit(op64 if is_wide(kind) else op32, row, source(e, kind, a), source(e, kind, b))
        trim(e, kind, row)

    return emit


def _by_sign(signed32: int, unsigned32: int, signed64: int, unsigned64: int):
    def emit(e, inst):
        kind = inst.mods[-1] if inst.mods else ""
        if kind.startswith("s"):
            _binary(signed32, signed64)(e, inst)
        else:
            _binary(unsigned32, unsigned64)(e, inst)

    return emit


lower("div", types=INTEGERS)(_by_sign(mc.DIV_S, mc.DIV_U, mc.XDIV_S, mc.XDIV_U))
lower("rem", types=INTEGERS)(_by_sign(mc.REM_S, mc.REM_U, mc.XREM_S, mc.XREM_U))


def _min_max_op(which: str, kind: str) -> int:
    prefix = "X" if is_wide(kind) else ""
    return getattr(mc, f"{prefix}{which.upper()}_{'S' if kind.startswith('s') else 'U'}")


@lower("min", "max", types=INTEGERS)
def _min_max(e, inst):
    m = Modifiers(inst)
    relu = m.flag("relu")
    kind = m.kind(*INTEGERS)
    m.done()
    if relu and kind != "s32":
        raise unsupported(inst, f"{inst.name}: .relu needs .s32, .s16x2")
    expect_operands(inst, 3)
    d, a, b = inst.operands
    row = destination(e, kind, d)
    e.emit(_min_max_op(inst.name, kind), row, source(e, kind, a), source(e, kind, b))
    if relu:
        e.emit(mc.MAX_S, row, row, e.const32(0))
    trim(e, kind, row)


@lower("min", "max", types=("u16x2", "s16x2"))
def _min_max_x2(e, inst):
    """Two 16-bit minima or maxima in one register."""
    m = Modifiers(inst)
    kind = m.kind()
    relu = m.flag("relu")
    m.done()
    if relu and kind != "s16x2":
        raise unsupported(inst, f"{inst.name}: .relu needs .s32, .s16x2")
    expect_operands(inst, 3)
    d, a, b = inst.operands
    extend = mc.SEXT16 if kind == "s16x2" else mc.ZEXT16
    halves = []
    for high in (False, True):
        rows = []
        for operand in (a, b):
            row = e.r32(operand)
            if high:
                shifted = e.temp32()
                e.emit(mc.HIGH16, shifted, row)
                row = shifted
            t = e.temp32()
            e.emit(extend, t, row)
            rows.append(t)
        result = e.temp32()
        e.emit(_min_max_op(inst.name, kind), result, *rows)
        if relu:
            e.emit(mc.MAX_S, result, result, e.const32(0))
        halves.append(result)
    e.emit(mc.PACK16, e.d32(d), *halves)


def _add_sub(op32: int, op64: int):
    """add and sub, with .sat (s32) and the carry forms .cc."""

    def emit(e, inst):
        m = Modifiers(inst)
        saturate = m.flag("sat")
        carry_out = m.flag("cc")
        kind = m.kind(*INTEGERS, "u16x2", "s16x2")
        m.done()
        expect_operands(inst, 3)
        if kind in ("u16x2", "s16x2"):
            _packed16(e, inst, op32)
            return
        d, a, b = inst.operands
        if saturate:
            if kind != "s32":
                raise unsupported(inst, f"{inst.name}: .sat needs .s32")
            x, y, t = e.temp64(), e.temp64(), e.temp64()
            e.emit(mc.SEXT64, x, e.r32(a))
            e.emit(mc.SEXT64, y, e.r32(b))
            e.emit(op64, t, x, y)
            e.emit(mc.XCLAMP_S, t, t, e.const64(-(1 << 31)), e.const64((1 << 31) - 1))
            e.emit(mc.LOW32, e.d32(d), t)
            return
        ra, rb = source(e, kind, a), source(e, kind, b)
        if carry_out:
            _with_carry(e, kind, inst, ra, rb, None, op32 == mc.SUB)
            return
        row = destination(e, kind, d)
        e.emit(op64 if is_wide(kind) else op32, row, ra, rb)
        trim(e, kind, row)

    return emit


def _packed16(e, inst, op: int) -> None:
    d, a, b = inst.operands
    ra, rb, low, x, y = e.r32(a), e.r32(b), e.temp32(), e.temp32(), e.temp32()
    e.emit(op, low, ra, rb)
    e.emit(mc.HIGH16, x, ra)
    e.emit(mc.HIGH16, y, rb)
    e.emit(op, x, x, y)
    e.emit(mc.PACK16, e.d32(d), low, x)


def carry_row(e) -> int:
    """The condition-code carry flag, a register that no name reaches."""
    if not hasattr(e, "carry"):
        e.carry = e.temp32()
    return e.carry


def _with_carry(e, kind: str, inst, ra: int, rb: int, carry_in: int | None, subtract: bool, out: bool = True) -> None:
    """d = a +- b (+- carry), setting the carry flag where `out`. Subtraction keeps a borrow, 1 = borrow."""
    wide = is_wide(kind)
    temp = e.temp64 if wide else e.temp32
    add, less = (mc.XADD, mc.XCARRY) if wide else (mc.ADD, mc.CARRY)
    sub = mc.XSUB if wide else mc.SUB
    first, c1 = temp(), e.temp32()
    e.emit(sub if subtract else add, first, ra, rb)
    # A sum below an addend carried; a difference whose minuend is below the subtrahend borrowed.
    e.emit(less, c1, *((ra, rb) if subtract else (first, ra)))
    result, c2 = first, e.const32(0)
    if carry_in is not None:
        extended = carry_in
        if wide:
            extended = e.temp64()
            e.emit(mc.ZEXT64, extended, carry_in)
        result, c2 = temp(), e.temp32()
        e.emit(sub if subtract else add, result, first, extended)
        e.emit(less, c2, *((first, extended) if subtract else (result, first)))
    if out:
        e.emit(mc.OR, carry_row(e), c1, c2)
    e.emit(mc.XMOV if wide else mc.MOV, destination(e, kind, inst.operands[0]), result)


@lower("addc", "subc")
def _add_with_carry(e, inst):
    m = Modifiers(inst)
    out = m.flag("cc")
    kind = m.kind("u32", "s32", "u64", "s64")
    m.done()
    expect_operands(inst, 3)
    _, a, b = inst.operands
    _with_carry(e, kind, inst, source(e, kind, a), source(e, kind, b), carry_row(e), inst.name == "subc", out)


ADDITIVE = (*INTEGERS, "u16x2", "s16x2")
lower("add", types=ADDITIVE)(_add_sub(mc.ADD, mc.XADD))
lower("sub", types=ADDITIVE)(_add_sub(mc.SUB, mc.XSUB))


@lower("mul.lo", "mul.hi", "mul.wide")
def _mul(e, inst):
    m = Modifiers(inst)
    kind = m.kind(*INTEGERS)
    m.done()
    expect_operands(inst, 3)
    d, a, b = inst.operands
    form = inst.name.split(".")[1]
    signed = "S" if kind.startswith("s") else "U"
    if form == "wide":
        if kind in ("u16", "s16"):
            e.emit(mc.MUL, e.d32(d), source(e, kind, a), source(e, kind, b))
        elif is_wide(kind):
            raise unsupported(inst, "mul.wide takes 16- and 32-bit types")
        else:
            e.emit(getattr(mc, f"MULW_{signed}"), e.d64(d), e.r32(a), e.r32(b))
        return
    row = destination(e, kind, d)
    ra, rb = source(e, kind, a), source(e, kind, b)
    if form == "lo":
        e.emit(mc.XMUL if is_wide(kind) else mc.MUL, row, ra, rb)
    elif kind in ("u16", "s16"):
        t = e.temp32()
        e.emit(mc.MUL, t, ra, rb)
        e.emit(mc.HIGH16, row, t)
    else:
        e.emit(getattr(mc, f"{'X' if is_wide(kind) else ''}MULHI_{signed}"), row, ra, rb)
    trim(e, kind, row)


@lower("mad.lo", "mad.hi", "mad.wide")
def _mad(e, inst):
    m = Modifiers(inst)
    kind = m.kind(*INTEGERS)
    m.done()
    expect_operands(inst, 4)
    d, a, b, c = inst.operands
    form = inst.name.split(".")[1]
    signed = "S" if kind.startswith("s") else "U"
    if form == "wide":
        if kind in ("u16", "s16"):
            e.emit(mc.MAD, e.d32(d), source(e, kind, a), source(e, kind, b), e.r32(c))
        elif is_wide(kind):
            raise unsupported(inst, "mad.wide takes 16- and 32-bit types")
        else:
            e.emit(getattr(mc, f"MADW_{signed}"), e.d64(d), e.r32(a), e.r32(b), e.r64(c))
        return
    row = destination(e, kind, d)
    ra, rb, rc = source(e, kind, a), source(e, kind, b), source(e, kind, c)
    if form == "lo":
        e.emit(mc.XMAD if is_wide(kind) else mc.MAD, row, ra, rb, rc)
    else:
        t = e.temp64() if is_wide(kind) else e.temp32()
        if kind in ("u16", "s16"):
            e.emit(mc.MUL, t, ra, rb)
            e.emit(mc.HIGH16, t, t)
        else:
            e.emit(getattr(mc, f"{'X' if is_wide(kind) else ''}MULHI_{signed}"), t, ra, rb)
        e.emit(mc.XADD if is_wide(kind) else mc.ADD, row, t, rc)
    trim(e, kind, row)


@lower("sad")
def _sad(e, inst):
    m = Modifiers(inst)
    kind = m.kind(*INTEGERS)
    m.done()
    expect_operands(inst, 4)
    d, a, b, c = inst.operands
    wide = is_wide(kind)
    temp = e.temp64 if wide else e.temp32
    ra, rb, rc = source(e, kind, a), source(e, kind, b), source(e, kind, c)
    low, high, row = temp(), temp(), destination(e, kind, d)
    e.emit(_min_max_op("min", kind), low, ra, rb)
    e.emit(_min_max_op("max", kind), high, ra, rb)
    e.emit(mc.XSUB if wide else mc.SUB, low, high, low)
    e.emit(mc.XADD if wide else mc.ADD, row, low, rc)
    trim(e, kind, row)


def _unary(op32: int, op64: int, kinds):
    def emit(e, inst):
        m = Modifiers(inst)
        kind = m.kind(*kinds)
        m.done()
        expect_operands(inst, 2)
        d, a = inst.operands
        row = destination(e, kind, d)
        e.emit(op64 if is_wide(kind) else op32, row, source(e, kind, a))
        trim(e, kind, row)

    return emit


SIGNED = ("s16", "s32", "s64")
lower("neg", types=SIGNED)(_unary(mc.NEG, mc.XNEG, SIGNED))
lower("abs", types=SIGNED)(_unary(mc.ABS, mc.XABS, SIGNED))
