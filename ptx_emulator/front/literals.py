"""Numbers and lists in PTX text (PTX ISA 4.5, 5.4)."""

from __future__ import annotations

import re
import struct

from ..ir import Imm, type_bytes

_INTEGER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?$")
_FLOAT_BITS = re.compile(r"(-?)0([fFdD])([0-9a-fA-F]{8,16})$")
_DECIMAL = re.compile(r"-?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?$")


def split(text: str) -> list[str]:
    """Splits at commas outside brackets; an empty text gives no parts."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[\[\](){},]", text):
        char = match[0]
        if char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    if text[start:].strip():
        parts.append(text[start:])
    return parts


def literal(text: str) -> Imm | None:
    """The number that `text` spells, or None. Raises ValueError for digits that its base does not have."""
    match = _FLOAT_BITS.match(text)
    if match and len(match[3]) == (8 if match[2] in "fF" else 16):
        bits = 32 if match[2] in "fF" else 64
        value = int(match[3], 16) ^ ((1 << (bits - 1)) if match[1] else 0)
        return Imm(value, bits)
    match = _INTEGER.match(text)
    if match:
        digits = match[2]
        if digits[:2] in ("0x", "0X"):
            value = int(digits, 16)
        elif digits[:2] in ("0b", "0B"):
            value = int(digits[2:], 2)
        else:
            value = int(digits, 8) if digits[0] == "0" and len(digits) > 1 else int(digits)
        return Imm(-value if match[1] else value)
    if _DECIMAL.match(text):
        return Imm(struct.unpack("<Q", struct.pack("<d", float(text)))[0], 64)
    return None


def initial_bytes(text: str, kind: str, nbytes: int) -> bytes:
    """A variable's memory from its initialiser, padded with zeros to `nbytes`. Raises ValueError."""
    values = [literal(v.strip()) for v in split(text.strip().strip("{}").replace("{", "").replace("}", ""))]
    element = type_bytes(kind)
    data = bytearray()
    for value in values:
        if value is None:
            raise ValueError(f"initial value {text.strip()!r}: only numbers are implemented")
        if value.float_bits == 64 and kind == "f32":
            data += struct.pack("<f", struct.unpack("<d", struct.pack("<Q", value.value))[0])
        else:
            data += (value.value & ((1 << 8 * element) - 1)).to_bytes(element, "little")
    return bytes(data).ljust(nbytes, b"\0")
