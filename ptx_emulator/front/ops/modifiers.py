"""Strict reading of an instruction's modifiers."""

from __future__ import annotations

from ...ir import Instruction
from ...registry import unsupported


class Modifiers:
    """The dot parts after an opcode's name. Each must be consumed; `done` raises for what is left."""

    def __init__(self, inst: Instruction):
        self.inst = inst
        self.left = list(inst.mods)

    def flag(self, name: str) -> bool:
        """True (and consumed) if `.name` is there."""
        if name in self.left:
            self.left.remove(name)
            return True
        return False

    def choice(self, *names: str, default: str | None = None) -> str:
        """The one of `names` that is there; `default` if none is (required when default is None)."""
        found = [name for name in self.left if name in names]
        if len(found) > 1 or (not found and default is None):
            raise unsupported(self.inst, f"{self.inst.name}: expected one of {', '.join('.' + n for n in names)}")
        if not found:
            return default
        self.left.remove(found[0])
        return found[0]

    def kind(self, *allowed: str) -> str:
        """The last part as a type; one of `allowed` where given."""
        if not self.left:
            raise unsupported(self.inst, f"{self.inst.name}: the type is missing")
        kind = self.left.pop()
        if allowed and kind not in allowed:
            raise unsupported(
                self.inst, f"{self.inst.name}: type .{kind} is not implemented (known: {', '.join(allowed)})"
            )
        return kind

    def done(self) -> None:
        if self.left:
            raise unsupported(self.inst, f"{self.inst.name}: modifier .{self.left[0]} is not implemented")


def expect_operands(inst: Instruction, *counts: int) -> None:
    if len(inst.operands) not in counts:
        raise unsupported(inst, f"{inst.name}: {len(inst.operands)} operands, expected {' or '.join(map(str, counts))}")
