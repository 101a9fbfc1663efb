"""Registries that connect PTX opcodes to the code that carries them out.

Two kinds of entry exist. A *lowering* turns an instruction into micro-operations of the compiled engine at
decode time. A *handler* is a Python function that the engine calls ("traps to") each time the instruction is
executed; handlers are for instructions that are rare or do much work per execution.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import UnsupportedInstruction


@dataclass(frozen=True, slots=True)
class Blocked:
    """Returned by a handler that cannot go on yet; it is called again later with the same arguments.

    A handler that returns Blocked must not have changed any state. `reason` is printed in a deadlock report.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Handler:
    """A Python handler. See `op` for the fields."""

    name: str
    execute: Callable
    prepare: Callable | None
    modifiers: frozenset[str] | None
    sync: str
    writes: int
    native: Callable | None
    changes: bool


_handlers: dict[str, Handler] = {}
_lowerings: dict[tuple[str, str], Callable] = {}
_cta_states: dict[str, Callable] = {}
_cta_exits: list[Callable] = []


def op(
    *names: str,
    modifiers: set[str] | None = None,
    prepare: Callable | None = None,
    sync: str = "none",
    writes: int = -1,
    native: Callable | None = None,
    changes: bool = True,
):
    """Registers `fn(warp, inst, mask)` for every opcode that starts with one of `names` (whole dot parts).

    The longest registered name wins. At decode time `inst.name` and `inst.mods` are set, every modifier is
    checked against `modifiers` (None: `prepare` does the checking), and `inst.data = prepare(inst)`.
    `prepare` raises UnsupportedInstruction (see `unsupported`) for what it does not know.

    `sync` says which lanes must have arrived before `fn` is called: "none"; "aligned" (every lane of the warp
    that has not exited); "mask" (those of the membermask, which is the last operand).
    `writes`: how many leading operands are destinations (registers are shared between values whose lives do
    not overlap, so this must be right). -1: unknown, every register operand is taken as read and written.

    `native(inst, symbols)` returns the arguments of the instruction's native form (engine/native.py), or None if it has
    none; `symbols` are the kernel's variables by name.

    `changes`: whether a warp could be waiting for what the instruction does. A loop of others is stuck.

    `fn` gets the lanes to act on as the int bit mask `mask` (never 0) and returns None, or `Blocked(...)`.
    """

    def register(fn):
        for name in names:
            if name in _handlers or (name, "") in _lowerings:
                raise ValueError(f"opcode name {name!r} registered twice")
            allowed = None if modifiers is None else frozenset(modifiers)
            _handlers[name] = Handler(name, fn, prepare, allowed, sync, writes, native, changes)
        return fn

    return register


def lower(*names: str, types: tuple[str, ...] = ("",)):
    """Registers `fn(emit, inst)`, which emits micro-operations for opcodes that start with one of `names`.

    With `types`, only for opcodes whose last part is one of them (`add` of integers and of floats differ).
    """

    def register(fn):
        for name in names:
            for kind in types:
                if name in _handlers or (name, kind) in _lowerings:
                    raise ValueError(f"opcode name {name!r} registered twice")
                _lowerings[name, kind] = fn
        return fn

    return register


def cta_state(attribute: str):
    """Registers `fn(cta)`, whose result becomes `cta.<attribute>` when a CTA starts (e.g. its Tensor Memory)."""

    def register(fn):
        _cta_states[attribute] = fn
        return fn

    return register


def cta_exit(fn):
    """Registers `fn(cta)`, called when every thread of the cluster has exited (leak checks)."""
    _cta_exits.append(fn)
    return fn


def cta_states() -> dict[str, Callable]:
    return _cta_states


def cta_exits() -> list[Callable]:
    return _cta_exits


def find(inst) -> Handler | Callable:
    """The handler or lowering for `inst`; sets `inst.name` and `inst.mods`. Raises UnsupportedInstruction."""
    parts = inst.parts
    for n in range(len(parts), 0, -1):
        name = ".".join(parts[:n])
        entry = _handlers.get(name) or _lowerings.get((name, parts[-1])) or _lowerings.get((name, ""))
        if entry is not None:
            inst.name, inst.mods = name, parts[n:]
            return entry
    raise unsupported(inst, f"opcode {inst.opcode!r} is not implemented")


def prepare(handler: Handler, inst) -> None:
    """Checks the modifiers of `inst` and lets the handler decode it. Raises UnsupportedInstruction."""
    if handler.modifiers is not None:
        for mod in inst.mods:
            if mod not in handler.modifiers:
                allowed = ", ".join("." + m for m in sorted(handler.modifiers)) or "none"
                raise unsupported(inst, f"modifier .{mod} of {handler.name} is not implemented (known: {allowed})")
    if handler.prepare is not None:
        inst.data = handler.prepare(inst)


def unsupported(inst, message: str) -> UnsupportedInstruction:
    """An UnsupportedInstruction error (to raise) that names the instruction's line."""
    return UnsupportedInstruction(message, line=inst.line, text=inst.text, column=inst.column)


# Lowerings and handlers take operands for what their instruction has there. Where a malformed text has something else,
# what they stumble over (these) becomes an UnsupportedInstruction that names the instruction.
MISFITS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, struct.error)


def misfit(inst, error: Exception) -> UnsupportedInstruction:
    message = f"{inst.name or inst.opcode}: operands or modifiers do not fit ({type(error).__name__}: {error})"
    return unsupported(inst, message)


@contextmanager
def reading(inst):
    """While operands of `inst` are read: a misfit names the instruction."""
    try:
        yield
    except MISFITS as error:
        raise misfit(inst, error) from error
