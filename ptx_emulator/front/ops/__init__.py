"""Instruction families that are lowered to micro-operations. Importing this package registers them."""

from . import bits, convert, floating, memory, move, scalar, select, sync

__all__ = ["bits", "convert", "floating", "memory", "move", "scalar", "select", "sync"]
