"""Instructions and operands as the parser leaves them and as handlers see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

WIDTH_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}


def type_bytes(name: str) -> int:
    """Bytes of a fundamental PTX type name without its dot: `u8`, `b32`, `f16x2`, `b128`, ... (`pred` is 4)."""
    if name == "pred":
        return 4
    if name in ("f16x2", "bf16x2", "u16x2", "s16x2"):
        return 4
    if name in ("bf16", "f16"):
        return 2
    if name == "tf32":
        return 4
    if name == "f32x2":
        return 8
    digits = name.lstrip("busf")
    if digits in WIDTH_BYTES and name[0] in "busf":
        return WIDTH_BYTES[digits]
    raise ValueError(f"type name {name!r}: not a fundamental PTX type")


@dataclass(eq=False, slots=True)
class Reg:
    """A register: one object per declaration, so that equal names of different scopes differ.

    `slot` is its row of the warp's `r32` file (pred, and types up to 32 bits) or `r64` file, known once the
    kernel is decoded. A `b128` register is the two `r64` rows `slot` (low half) and `slot + 1`. Special
    registers are registers whose rows are filled at CTA start. `row` is the decoder's own number.
    """

    name: str
    type: str
    slot: int = -1
    row: int = -1

    @property
    def is64(self) -> bool:
        return self.type in ("b64", "u64", "s64", "f64", "f32x2")

    @property
    def is128(self) -> bool:
        return self.type == "b128"


@dataclass(frozen=True, slots=True)
class Not:
    """`!%p`: a predicate operand, negated."""

    reg: Reg


@dataclass(frozen=True, slots=True)
class Imm:
    """An immediate. `value` is the integer as written (may be negative); for a floating literal the bits.

    `float_bits` is 0 for an integer literal, 32 for `0f...`, 64 for `0d...` and decimal literals.
    """

    value: int
    float_bits: int = 0


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, parameter, label or function named as an operand. `space` is shared/global/const/local/param/
    param::func/label/func.

    `address` is its address in that space (host address for param/global/const; offset without CTA rank for
    shared; offset in the thread's frame for local; micro-code index for a label), known once linked.
    """

    name: str
    space: str = ""
    address: int = 0


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b, ...}`"""

    elements: tuple


@dataclass(frozen=True, slots=True)
class Sink:
    """`_`: a result that is not wanted."""


@dataclass(frozen=True, slots=True)
class Pair:
    """`d|p`: two destinations. Either may be a `Sink`."""

    first: object
    second: object


@dataclass(frozen=True, slots=True)
class Address:
    """`[base+offset]`, and for tensor instructions `[base, {coordinates}]`.

    `base` is a Reg, a Symbol, or None for an absolute address; `extra` are the operands after the first comma
    inside the brackets.
    """

    base: object
    offset: int = 0
    extra: tuple = ()


@dataclass(slots=True)
class Instruction:
    """One PTX instruction.

    opcode    as written with its modifiers, without guard: `mbarrier.try_wait.parity.shared::cta.b64`
    parts     the opcode split at dots (`::` does not split)
    name      the registered name that matched: a dot-prefix of the opcode
    mods      the parts after `name`, in order
    operands  Reg | Not | Imm | Symbol | Vector | Sink | Pair | Address
    guard     (Reg, negated) or None
    line, column  where it starts in the PTX text, from 1; `text` is the statement, whitespace collapsed
    data      what the handler's `prepare` returned
    """

    opcode: str
    parts: tuple[str, ...]
    operands: tuple
    guard: tuple[Reg, bool] | None
    line: int
    text: str
    name: str = ""
    mods: tuple[str, ...] = ()
    data: object = None
    column: int | None = None


def registers(operand: object) -> Iterator[Reg]:
    """Every register that an operand names, those of an address and of a vector included."""
    if type(operand) is Reg:
        yield operand
    elif type(operand) is Not:
        yield operand.reg
    elif type(operand) is Vector:
        for element in operand.elements:
            yield from registers(element)
    elif type(operand) is Pair:
        yield from registers(operand.first)
        yield from registers(operand.second)
    elif type(operand) is Address:
        yield from registers(operand.base)
        for element in operand.extra:
            yield from registers(element)
