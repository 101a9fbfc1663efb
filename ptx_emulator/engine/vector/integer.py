"""Builders of the integer micro-operations (PTX ISA 9.7.1, 9.7.6, 9.7.8)."""

from __future__ import annotations

from .. import microcode as mc
from .rows import BOOLS, ROW_TYPES, call, flag, splat


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


def _of_width(kind: str, bits: int) -> dict:
    """The operations that exist for 32 and for 64 bits: name -> (rows, builder)."""
    two, three = 2 * kind, 3 * kind
    table = {
        "MOV": (two, lambda b, x: x),
        "ADD": (three, binary("add")),
        "SUB": (three, binary("sub")),
        "MUL": (three, binary("mul")),
        "MAD": (4 * kind, lambda b, x, y, z: b.add(b.mul(x, y), z)),
        "AND": (three, binary("and_")),
        "OR": (three, binary("or_")),
        "XOR": (three, binary("xor")),
        "NOT": (two, invert(kind)),
        "NEG": (two, negate(kind)),
        "ABS": (two, magnitude(kind)),
        "SHL": (two + "i", shift("shl", bits)),
        "SHR_U": (two + "i", shift("lshr", bits)),
        "SHR_S": (two + "i", shift("ashr", bits)),
        "SELP": (three + "i", select),
        "CARRY": ("i" + two, compare("<", False)),
    }
    for name, condition, signed in (
        ("SEQ", "==", False),
        ("SNE", "!=", False),
        ("SLT_S", "<", True),
        ("SLE_S", "<=", True),
        ("SLT_U", "<", False),
        ("SLE_U", "<=", False),
    ):
        table[name] = ("i" + two, compare(condition, signed))
    for name, condition in (("MIN", "<"), ("MAX", ">")):
        table[f"{name}_S"] = (three, pick(condition, True))
        table[f"{name}_U"] = (three, pick(condition, False))
    return table


def integer_table() -> dict:
    table = {
        mc.MULHI_S: ("iii", mul_high("sext")),
        mc.MULHI_U: ("iii", mul_high("zext")),
        mc.POPC: ("ii", lambda b, x: call(b, "ctpop", x)),
        mc.BREV: ("ii", lambda b, x: call(b, "bitreverse", x)),
        mc.SEXT8: ("ii", sign_extend_low(8)),
        mc.SEXT16: ("ii", sign_extend_low(16)),
        mc.ZEXT8: ("ii", keep_low(8)),
        mc.ZEXT16: ("ii", keep_low(16)),
        mc.PACK16: ("iii", pack16),
        mc.HIGH16: ("ii", lambda b, x: b.lshr(x, splat("i", 16))),
        mc.MULW_S: ("lii", mul_wide("sext")),
        mc.MULW_U: ("lii", mul_wide("zext")),
        mc.MADW_S: ("liil", mul_wide("sext")),
        mc.MADW_U: ("liil", mul_wide("zext")),
        mc.PACK64: ("lii", pack64),
        mc.LOW32: ("il", lambda b, x: b.trunc(x, ROW_TYPES["i"])),
        mc.HIGH32: ("il", lambda b, x: b.trunc(b.lshr(x, splat("l", 32)), ROW_TYPES["i"])),
        mc.SEXT64: ("li", lambda b, x: b.sext(x, ROW_TYPES["l"])),
        mc.ZEXT64: ("li", lambda b, x: b.zext(x, ROW_TYPES["l"])),
    }
    for name, entry in _of_width("i", 32).items():
        table[getattr(mc, name)] = entry
    for name, entry in _of_width("l", 64).items():
        table[getattr(mc, "XOR64" if name == "OR" else f"X{name}")] = entry  # XOR is that of 32 bits
    return table
