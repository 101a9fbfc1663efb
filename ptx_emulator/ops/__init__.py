"""Instruction families. Importing this package registers every instruction that the emulator knows."""

from . import (
    async_copy, convert, floating, launch_control, matrix, memory, scalar, sync, tcgen05, tcgen05_mma, tma,
)  # fmt: skip

__all__ = ["async_copy", "convert", "floating", "launch_control", "matrix", "memory", "scalar", "sync", "tcgen05",
           "tcgen05_mma", "tma"]  # fmt: skip
