"""Calls of the functions that every CUDA program may call: vprintf and __assertfail (PTX ISA 9.7.12.5; CUDA C++
programming guide, "Formatted output" and "Assertion")."""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator

import numpy as np

from ..engine import state as st
from ..errors import OutOfBounds, Trap
from ..ir import Symbol, Vector
from ..machine import memory
from ..machine.warp import lane_list, require
from ..registry import op, unsupported

_CONVERSION = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\d*))?(?P<size>hh|h|ll|l)?(?P<type>.)", re.S
)
_SIGNED, _UNSIGNED, _REAL = "di", "uoxX", "eEfFgG"


def _prepare(inst):
    """The function's handler. Its operands: ((result), function, (arguments))."""
    require(inst, not set(inst.mods) - {"uni"}, f"{inst.opcode} is not implemented")
    names = [operand for operand in inst.operands if isinstance(operand, Symbol)]
    name = names[0].name if len(names) == 1 and names[0].space == "func" else ""
    require(inst, name in _FUNCTIONS, f"a call is implemented for {' and '.join(_FUNCTIONS)} only")
    function, arguments, results = _FUNCTIONS[name]
    vectors = [operand for operand in inst.operands if isinstance(operand, Vector)]
    found = [len(vector.elements) for vector in vectors]
    require(inst, found == [1] * results + [arguments], f"{name} with arguments and results {found}")
    return function


@op("call", prepare=_prepare, writes=0)
def call(warp, inst, mask: int):
    """Per thread, in the order of the lanes."""
    vectors = [operand for operand in inst.operands if isinstance(operand, Vector)]
    for lane in lane_list(mask):
        frame = _frame(warp, lane)
        arguments = [_read(frame, warp.symbol_address(symbol), "Q")[0] for symbol in vectors[-1].elements]
        result = inst.data(warp, inst, lane, arguments)
        if len(vectors) == 2:
            offset = warp.symbol_address(vectors[0].elements[0])
            frame[offset : offset + 4] = np.frombuffer(struct.pack("<i", result), np.uint8)


def _frame(warp, lane: int) -> np.ndarray:
    """uint8 view of a thread's local memory."""
    nbytes = int(warp.row[st.W_LOCAL_BYTES])
    return memory.host_view(int(warp.row[st.W_LOCAL]) + lane * nbytes, nbytes)


def _read(frame: np.ndarray, offset: int, kind: str) -> tuple:
    return struct.unpack_from(f"<{kind}", frame, offset)


def _vprintf(warp, inst, lane: int, arguments: list[int]) -> int:
    """Prints; returns the number of values printed."""
    text = string(warp, inst, lane, arguments[0])
    pieces = list(_formatted(warp, inst, lane, text, arguments[1]))
    sys.stdout.write("".join(pieces))
    return sum(1 for match in _CONVERSION.finditer(text) if match["type"] != "%")


def _assertfail(warp, inst, lane: int, arguments: list[int]) -> int:
    """Stops the launch, as __assertfail(condition, file, line, function, bytes per character) does."""
    condition, file, line, function = arguments[0], arguments[1], arguments[2] & 0xFFFFFFFF, arguments[3]
    texts = [string(warp, inst, lane, address) if address else "" for address in (condition, file, function)]
    raise Trap(
        f"assertion failed in lane {lane} of warp {warp.index}, CTA {warp.cta.ctaid}: {texts[0]} "
        f"({texts[1]}:{line}, {texts[2]})",
        line=inst.line,
        text=inst.text,
    )


_FUNCTIONS = {"vprintf": (_vprintf, 2, 1), "__assertfail": (_assertfail, 5, 0)}  # (handler, arguments, results)


def _formatted(warp, inst, lane: int, text: str, buffer: int) -> Iterator[str]:
    """The pieces of `text` with its conversions replaced. The values lie one after the other from generic address
    `buffer`, each aligned to its size: 4 bytes for int, 8 for long, pointers and double."""
    position, offset = 0, buffer - st.LOCAL_WINDOW
    frame = _frame(warp, lane)

    def value(kind: str):
        nonlocal offset
        size = struct.calcsize(kind)
        offset = -(-offset // size) * size
        if not 0 <= offset <= len(frame) - size:
            raise OutOfBounds(f"vprintf reads its values at {buffer:#x}, outside local memory", line=inst.line)
        offset += size
        return _read(frame, offset - size, kind)[0]

    for match in _CONVERSION.finditer(text):
        yield text[position : match.start()]
        position = match.end()
        kind = match["type"]
        if kind == "%":
            yield "%"
            continue
        width = str(value("i")) if match["width"] == "*" else match["width"] or ""
        precision = "" if match["precision"] is None else f".{match['precision'] or 0}"
        spec = f"%{match['flags']}{width}{precision}"
        letter = "q" if match["size"] in ("l", "ll") else "i"
        bits = {"hh": 8, "h": 16, "l": 64, "ll": 64}.get(match["size"], 32)
        if kind in _SIGNED:
            number = value(letter) & (1 << bits) - 1
            yield f"{spec}d" % (number - (number >> bits - 1 << bits))
        elif kind in _UNSIGNED:
            yield _unsigned(spec, kind, value(letter) & (1 << bits) - 1)
        elif kind in _REAL:
            yield f"{spec}{kind}" % value("d")
        elif kind == "c":
            yield f"{spec}c" % chr(value("i") & 0xFF)
        elif kind == "s":
            yield f"{spec}s" % string(warp, inst, lane, value("Q"))
        elif kind == "p":
            yield f"%{match['flags']}{width}s" % hex(value("Q"))
        else:
            raise unsupported(inst, f"conversion {match[0]!r} of vprintf is not implemented")
    yield text[position:]


def _unsigned(spec: str, kind: str, number: int) -> str:
    if kind == "o" and "#" in spec:
        return f"{spec.replace('#', '')}s" % (f"0{number:o}" if number else "0")
    # C leaves the prefix of a zero out.
    return f"{spec if number else spec.replace('#', '')}{'d' if kind == 'u' else kind}" % number


def string(warp, inst, lane: int, address: int) -> str:
    """The string at a generic address of global, constant or local memory. Raises OutOfBounds if it does not end."""
    if st.LOCAL_WINDOW <= address < st.LOCAL_WINDOW + st.WINDOW_BYTES:
        rest = _frame(warp, lane)[address - st.LOCAL_WINDOW :]
    else:
        buffers = warp.cta.grid.buffers
        rest = buffers.view(address, buffers.bytes_left(address), inst)
    end = np.flatnonzero(rest == 0)
    if not len(end):
        raise OutOfBounds(f"the string at {address:#x} does not end", line=inst.line, text=inst.text)
    return rest[: end[0]].tobytes().decode("utf-8", "replace")
