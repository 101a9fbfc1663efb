"""Logic, shifts, permutations and bit fields (PTX ISA 9.7.1, 9.7.8, 9.7.9.7)."""

from __future__ import annotations

from ...engine import microcode as mc
from ...registry import lower, unsupported
from .modifiers import Modifiers, expect_operands
from .scalar import INTEGERS, destination, is_wide, source, trim


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
        e.emit(
            mc.XBFI if wide else mc.BFI,
            destination(e, kind, d),
            source(e, kind, f),
            source(e, kind, a),
            e.r32(b),
            e.r32(c),
        )
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
