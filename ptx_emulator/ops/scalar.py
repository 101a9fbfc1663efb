"""Integer, logic, comparison and data-movement instructions (PTX ISA 9.7.1, 9.7.2, 9.7.6-9.7.9)."""

from __future__ import annotations

from .. import microcode as mc
from ..ir import Not, Pair, Sink, Vector, type_bytes
from ..registry import lower, unsupported
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


@lower("and", "or", "xor")
def _logic(e, inst):
    m = Modifiers(inst)
    kind = m.kind("pred", "b16", "b32", "b64")
    m.done()
    expect_operands(inst, 3)
    d, a, b = inst.operands
    op64 = {"and": mc.XAND, "or": mc.XOR64, "xor": mc.XXOR}[inst.name]
    op32 = {"and": mc.AND, "or": mc.OR, "xor": mc.XOR}[inst.name]
    row = destination(e, kind, d)
    e.emit(op64 if is_wide(kind) else op32, row, source(e, kind, a), source(e, kind, b))
    trim(e, kind, row)


@lower("not")
def _not(e, inst):
    m = Modifiers(inst)
    kind = m.kind("pred", "b16", "b32", "b64")
    m.done()
    expect_operands(inst, 2)
    d, a = inst.operands
    row = destination(e, kind, d)
    if kind == "pred":
        e.emit(mc.XOR, row, e.r32(a), e.const32(1))
        return
    e.emit(mc.XNOT if is_wide(kind) else mc.NOT, row, source(e, kind, a))
    trim(e, kind, row)


@lower("cnot")
def _cnot(e, inst):
    m = Modifiers(inst)
    kind = m.kind("b16", "b32", "b64")
    m.done()
    d, a = inst.operands
    if is_wide(kind):
        t = e.temp32()
        e.emit(mc.XSEQ, t, e.r64(a), e.const64(0))
        e.emit(mc.ZEXT64, e.d64(d), t)
    else:
        e.emit(mc.SEQ, e.d32(d), e.r32(a), e.const32(0))


@lower("shl", "shr")
def _shift(e, inst):
    m = Modifiers(inst)
    kind = m.kind("b16", "b32", "b64", *INTEGERS)
    m.done()
    expect_operands(inst, 3)
    d, a, b = inst.operands
    prefix = "X" if is_wide(kind) else ""
    if inst.name == "shl":
        op = getattr(mc, prefix + "SHL")
    else:
        op = getattr(mc, f"{prefix}SHR_{'S' if kind.startswith('s') else 'U'}")
    row = destination(e, kind, d)
    e.emit(op, row, source(e, kind, a), e.r32(b))
    trim(e, kind, row)


@lower("shf.l", "shf.r")
def _funnel(e, inst):
    m = Modifiers(inst)
    wrap = m.choice("wrap", "clamp") == "wrap"
    m.kind("b32")
    m.done()
    expect_operands(inst, 4)
    d, a, b, c = inst.operands
    op = mc.SHF_L if inst.name == "shf.l" else mc.SHF_R
    e.emit(op, e.d32(d), e.r32(a), e.r32(b), e.r32(c), int(wrap))


@lower("lop3")
def _lop3(e, inst):
    m = Modifiers(inst)
    combine = m.choice("or", "and", default="")
    m.kind("b32")
    m.done()
    if combine:
        raise unsupported(inst, "lop3 with a predicate result (.and, .or) is not implemented")
    expect_operands(inst, 5)
    d, a, b, c, table = inst.operands
    e.emit(mc.LOP3, e.d32(d), e.r32(a), e.r32(b), e.r32(c), table.value & 255)


PRMT_MODES = ("", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16")


@lower("prmt")
def _prmt(e, inst):
    if inst.mods[0] != "b32":
        raise unsupported(inst, "prmt: the type must be .b32")
    mode = inst.mods[1] if len(inst.mods) > 1 else ""
    if mode not in PRMT_MODES or len(inst.mods) > 2:
        raise unsupported(inst, f"prmt: mode .{mode} is not implemented")
    expect_operands(inst, 4)
    d, a, b, c = inst.operands
    e.emit(mc.PRMT, e.d32(d), e.r32(a), e.r32(b), e.r32(c), PRMT_MODES.index(mode))


@lower("popc", "clz")
def _count_bits(e, inst):
    m = Modifiers(inst)
    kind = m.kind("b32", "b64")
    m.done()
    d, a = inst.operands
    if kind == "b64":
        e.emit(mc.XPOPC if inst.name == "popc" else mc.XCLZ, e.d32(d), e.r64(a))
    else:
        e.emit(mc.POPC if inst.name == "popc" else mc.CLZ, e.d32(d), e.r32(a))


@lower("brev")
def _brev(e, inst):
    m = Modifiers(inst)
    kind = m.kind("b32", "b64")
    m.done()
    d, a = inst.operands
    e.emit(mc.XBREV if kind == "b64" else mc.BREV, destination(e, kind, d), source(e, kind, a))


@lower("bfind")
def _bfind(e, inst):
    m = Modifiers(inst)
    shift_amount = int(m.flag("shiftamt"))
    kind = m.kind("u32", "s32", "u64", "s64")
    m.done()
    d, a = inst.operands
    wide = is_wide(kind)
    row = source(e, kind, a)
    if kind.startswith("s"):
        # The first bit that differs from the sign: that of x ^ (x >> all).
        t = e.temp64() if wide else e.temp32()
        e.emit(mc.XSHR_S if wide else mc.SHR_S, t, row, e.const32(63 if wide else 31))
        e.emit(mc.XXOR if wide else mc.XOR, t, t, row)
        row = t
    e.emit(mc.XBFIND_U if wide else mc.BFIND_U, e.d32(d), row, shift_amount)


@lower("bfe", "bfi")
def _bit_field(e, inst):
    m = Modifiers(inst)
    kind = m.kind(*(("u32", "s32", "u64", "s64") if inst.name == "bfe" else ("b32", "b64")))
    m.done()
    wide = is_wide(kind)
    d, *rest = inst.operands
    if inst.name == "bfi":
        expect_operands(inst, 5)
        f, a, b, c = rest
        e.emit(mc.XBFI if wide else mc.BFI, destination(e, kind, d), source(e, kind, f), source(e, kind, a), e.r32(b),
               e.r32(c))  # fmt: skip
        return
    expect_operands(inst, 4)
    a, b, c = rest
    op = getattr(mc, f"{'X' if wide else ''}BFE_{'S' if kind.startswith('s') else 'U'}")
    e.emit(op, destination(e, kind, d), source(e, kind, a), e.r32(b), e.r32(c))


@lower("bmsk")
def _bmsk(e, inst):
    m = Modifiers(inst)
    wrap = m.choice("wrap", "clamp") == "wrap"
    m.kind("b32")
    m.done()
    d, a, b = inst.operands
    e.emit(mc.BMSK, e.d32(d), e.r32(a), e.r32(b), int(wrap))


@lower("dp4a")
def _dp4a(e, inst):
    if len(inst.mods) != 2 or not set(inst.mods) <= {"u32", "s32"}:
        raise unsupported(inst, "dp4a: expected two types of .u32, .s32")
    d, a, b, c = inst.operands
    flags = (inst.mods[0] == "s32") | (inst.mods[1] == "s32") << 1
    e.emit(mc.DP4A, e.d32(d), e.r32(a), e.r32(b), e.r32(c), flags)


@lower("selp")
def _selp(e, inst):
    m = Modifiers(inst)
    kind = m.kind("b16", "b32", "b64", *INTEGERS, "f32", "f64")
    m.done()
    expect_operands(inst, 4)
    d, a, b, p = inst.operands
    if is_wide(kind):
        e.emit(mc.XSELP, e.d64(d), e.r64(a, f64=kind == "f64"), e.r64(b, f64=kind == "f64"), e.r32(p))
    else:
        f32 = kind == "f32"
        e.emit(mc.SELP, e.d32(d), e.r32(a, f32=f32), e.r32(b, f32=f32), e.r32(p))
        trim(e, kind, e.d32(d))


@lower("slct")
def _slct(e, inst):
    m = Modifiers(inst)
    ftz = m.flag("ftz")
    test = m.kind("s32", "f32")
    kind = m.kind("b16", "b32", "b64", *INTEGERS, "f32", "f64")
    m.done()
    d, a, b, c = inst.operands
    p, row = e.temp32(), e.r32(c, f32=test == "f32")
    if ftz:
        flushed = e.temp32()
        e.emit(mc.FTZ, flushed, row)
        row = flushed
    e.emit(mc.FLE if test == "f32" else mc.SLE_S, p, e.const32(0), row)
    if is_wide(kind):
        e.emit(mc.XSELP, e.d64(d), e.r64(a), e.r64(b), p)
    else:
        e.emit(mc.SELP, e.d32(d), e.r32(a), e.r32(b), p)


@lower("mov")
def _mov(e, inst):
    m = Modifiers(inst)
    kind = m.kind("pred", "b16", "b32", "b64", "b128", *INTEGERS, "f32", "f64")
    m.done()
    expect_operands(inst, 2)
    d, a = inst.operands
    if kind == "b128":
        _mov128(e, inst, d, a)
    elif type(a) is Vector:
        _pack(e, kind, d, a.elements)
    elif type(d) is Vector:
        _unpack(e, kind, d.elements, a)
    elif is_wide(kind):
        e.emit(mc.XMOV, e.d64(d), e.r64(a, f64=kind == "f64"))
    else:
        e.emit(mc.MOV, e.d32(d), e.r32(a, f32=kind == "f32"))


def _mov128(e, inst, d, a) -> None:
    if type(a) is Vector:
        low, high = (e.r64(x) for x in a.elements)
        t = e.temp64()
        e.emit(mc.XMOV, t, high)
        e.emit(mc.XMOV, e.row(d), low)
        e.emit(mc.XMOV, e.row(d) + 1, t)
    elif type(d) is Vector:
        low, high = d.elements
        e.emit(mc.XMOV, e.d64(low), e.row(a))
        e.emit(mc.XMOV, e.d64(high), e.row(a) + 1)
    elif getattr(a, "is128", False) and getattr(d, "is128", False):
        e.emit(mc.XMOV, e.row(d), e.row(a))
        e.emit(mc.XMOV, e.row(d) + 1, e.row(a) + 1)
    else:
        raise unsupported(inst, "mov.b128: operands must be .b128 registers or {.b64, .b64}")


def _pack(e, kind: str, d, elements) -> None:
    """mov of a vector into a scalar, first element lowest (PTX ISA 9.7.9.3)."""
    n = len(elements)
    bits = 8 * type_bytes(kind)
    if bits == 64 and n == 2:
        e.emit(mc.PACK64, e.d64(d), e.r32(elements[0]), e.r32(elements[1]))
    elif bits == 64 and n == 4:
        low, high = e.temp32(), e.temp32()
        e.emit(mc.PACK16, low, e.r32(elements[0]), e.r32(elements[1]))
        e.emit(mc.PACK16, high, e.r32(elements[2]), e.r32(elements[3]))
        e.emit(mc.PACK64, e.d64(d), low, high)
    elif bits == 32 and n == 2:
        e.emit(mc.PACK16, e.d32(d), e.r32(elements[0]), e.r32(elements[1]))
    elif (bits, n) in ((32, 4), (16, 2)):
        total = e.temp32()
        e.emit(mc.ZEXT8, total, e.r32(elements[0]))
        for i in range(1, n):
            t = e.temp32()
            e.emit(mc.ZEXT8, t, e.r32(elements[i]))
            e.emit(mc.SHL, t, t, e.const32(8 * i))
            e.emit(mc.OR, total, total, t)
        e.emit(mc.MOV, e.d32(d), total)
    else:
        raise e.error(f"mov.{kind} of {n} elements is not implemented")


def _unpack(e, kind: str, elements, a) -> None:
    """mov of a scalar into a vector; sinks `_` are skipped."""
    n = len(elements)
    bits = 8 * type_bytes(kind)
    each = bits // n
    if (bits, n) not in ((64, 2), (64, 4), (32, 2), (32, 4), (16, 2)):
        raise e.error(f"mov.{kind} into {n} elements is not implemented")
    source_row = e.r64(a) if bits == 64 else e.r32(a)
    if bits < 64:
        # The source may be one of the destinations.
        t = e.temp32()
        e.emit(mc.MOV, t, source_row)
        source_row = t
    for i, element in enumerate(elements):
        if type(element) is Sink:
            continue
        position = i * each
        row = e.d32(element)
        narrow = source_row
        if bits == 64:
            narrow = row if each == 32 else e.temp32()
            e.emit(mc.LOW32 if position < 32 else mc.HIGH32, narrow, source_row)
            position %= 32
        if each == 32:
            continue
        t = e.temp32()
        e.emit(mc.SHR_U, t, narrow, e.const32(position))
        e.emit(mc.ZEXT16 if each == 16 else mc.ZEXT8, row, t)


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs")


def compare_integers(e, comparison: str, kind: str, a, b) -> int:
    """A fresh predicate row with `a comparison b`. Unsigned .lo/.ls/.hi/.hs are lt/le/gt/ge."""
    comparison = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(comparison, comparison)
    ra, rb = source(e, kind, a), source(e, kind, b)
    if comparison in ("gt", "ge"):
        ra, rb = rb, ra
        comparison = {"gt": "lt", "ge": "le"}[comparison]
    prefix = "X" if is_wide(kind) else ""
    if comparison in ("eq", "ne"):
        op = getattr(mc, f"{prefix}S{comparison.upper()}")
    elif kind.startswith("b"):
        raise e.error(f"setp.{comparison} on .{kind}: bit types compare only for eq and ne")
    else:
        op = getattr(mc, f"{prefix}S{comparison.upper()}_{'S' if kind.startswith('s') else 'U'}")
    p = e.temp32()
    e.emit(op, p, ra, rb)
    return p


def combine(e, inst, how: str, p: int, targets, other) -> None:
    """Writes a comparison to `p|q`, combined with predicate operand `other` by .and/.or/.xor."""
    first, second = (targets.first, targets.second) if type(targets) is Pair else (targets, None)
    op = {"and": mc.AND, "or": mc.OR, "xor": mc.XOR}.get(how)
    other_row = e.r32(other) if op is not None else None
    inverse = None
    if second is not None and type(second) is not Sink:
        inverse = e.temp32()
        e.emit(mc.XOR, inverse, p, e.const32(1))
        if op is not None:
            e.emit(op, inverse, inverse, other_row)
    if type(first) is not Sink:
        if op is None:
            e.emit(mc.MOV, e.d32(first), p)
        else:
            e.emit(op, e.d32(first), p, other_row)
    if inverse is not None:
        e.emit(mc.MOV, e.d32(second), inverse)


@lower("setp")
def _setp(e, inst):
    from .floating import compare_floats

    m = Modifiers(inst)
    ftz = m.flag("ftz")
    kind = m.kind("b16", "b32", "b64", *INTEGERS, "f32", "f64", "f16", "bf16")
    how = m.choice("and", "or", "xor", default="")
    comparison = m.left.pop() if m.left else ""
    m.done()
    expect_operands(inst, 4 if how else 3)
    targets, a, b, *rest = inst.operands
    if kind in ("f32", "f64", "f16", "bf16"):
        p = compare_floats(e, comparison, kind, a, b, ftz)
    elif comparison in COMPARISONS and not ftz:
        p = compare_integers(e, comparison, kind, a, b)
    else:
        raise unsupported(inst, f"setp: comparison .{comparison} is not implemented for .{kind}")
    if not how and type(targets) is not Pair and type(targets) is not Not and e.code[-1][2] == p:
        # The common form writes its predicate directly.
        e.code[-1][2] = e.d32(targets)
        return
    combine(e, inst, how, p, targets, rest[0] if rest else None)


@lower("set")
def _set(e, inst):
    from .floating import compare_floats

    m = Modifiers(inst)
    ftz = m.flag("ftz")
    kind = m.kind("b16", "b32", "b64", *INTEGERS, "f32", "f64")
    result = m.kind("u32", "s32", "f32")
    how = m.choice("and", "or", "xor", default="")
    comparison = m.left.pop() if m.left else ""
    m.done()
    d, a, b, *rest = inst.operands
    p = compare_floats(e, comparison, kind, a, b, ftz) if kind.startswith("f") else compare_integers(
        e, comparison, kind, a, b
    )
    if how:
        op = {"and": mc.AND, "or": mc.OR, "xor": mc.XOR}[how]
        e.emit(op, p, p, e.r32(rest[0]))
    yes = 0x3F800000 if result == "f32" else 0xFFFFFFFF
    e.emit(mc.SELP, e.d32(d), e.const32(yes), e.const32(0), p)
