"""Errors of an emulated launch. Each names the PTX instruction and its line where one is to blame."""

from __future__ import annotations


class EmulationError(Exception):
    """An emulated program did something that the emulator cannot, or hardware would not, carry out.

    `line` is the 1-based line of the PTX text and `text` the instruction there; both are None where no single
    instruction is to blame. `column`, from 1, is known for what is wrong with the text itself. `hazards` is what a
    launch with checks had found until then.
    """

    hazards: tuple = ()

    def __init__(self, message: str, *, line: int | None = None, text: str | None = None, column: int | None = None):
        self.message = message
        self.line = line
        self.text = text
        self.column = column
        place = "" if column is None else f", column {column}"
        where = "" if line is None else f"PTX line {line}{place}: {text}\n    "
        super().__init__(where + message)


class PtxSyntaxError(EmulationError):
    """The PTX text could not be read."""


class UnsupportedInstruction(EmulationError):
    """An instruction, modifier, operand form or descriptor field that the emulator does not implement."""


class OutOfBounds(EmulationError):
    """An access outside every registered buffer, or outside shared, local or parameter memory."""


class Misaligned(EmulationError):
    """An address that is not a multiple of the access size (or of what the instruction asks for)."""


class TmemError(EmulationError):
    """Misuse of Tensor Memory: not allocated, wrong lane quarter, leaked, out of range."""


class BarrierMisuse(EmulationError):
    """Misuse of an mbarrier or named barrier: not initialised, re-initialised, count or tx out of range."""


class ConvergenceError(EmulationError):
    """Lanes that a warp-synchronising instruction needs can never arrive, or operands differ between lanes."""


class Deadlock(EmulationError):
    """No warp can run. The message lists what each one waits for."""


class LimitExceeded(EmulationError):
    """The launch has taken more steps or more time than it was allowed. The message says where every warp stands."""


class Trap(EmulationError):
    """The program executed `trap`."""
