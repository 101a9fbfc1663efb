"""Comparisons and selections (PTX ISA 9.7.6, 9.7.7)."""

from __future__ import annotations

from ...engine import microcode as mc
from ...ir import Not, Pair, Sink
from ...registry import lower, unsupported
from .floating import compare_floats
from .modifiers import Modifiers, expect_operands
from .scalar import INTEGERS, is_wide, source, trim


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
    m = Modifiers(inst)
    ftz = m.flag("ftz")
    kind = m.kind("b16", "b32", "b64", *INTEGERS, "f32", "f64")
    result = m.kind("u32", "s32", "f32")
    how = m.choice("and", "or", "xor", default="")
    comparison = m.left.pop() if m.left else ""
    m.done()
    d, a, b, *rest = inst.operands
    p = (
        compare_floats(e, comparison, kind, a, b, ftz)
        if kind.startswith("f")
        else compare_integers(e, comparison, kind, a, b)
    )
    if how:
        op = {"and": mc.AND, "or": mc.OR, "xor": mc.XOR}[how]
        e.emit(op, p, p, e.r32(rest[0]))
    yes = 0x3F800000 if result == "f32" else 0xFFFFFFFF
    e.emit(mc.SELP, e.d32(d), e.const32(yes), e.const32(0), p)
