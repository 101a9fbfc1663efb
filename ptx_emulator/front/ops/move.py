"""mov: copies, packing and unpacking of vectors, addresses of variables (PTX ISA 9.7.9.3)."""

from __future__ import annotations

from ...engine import microcode as mc
from ...ir import Sink, Vector, type_bytes
from ...registry import lower, unsupported
from .modifiers import Modifiers, expect_operands
from .scalar import INTEGERS, is_wide


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
