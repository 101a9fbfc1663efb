"""Instruction families. Importing this package registers every instruction that the emulator knows."""

from . import (
    async_copy,
    bits,
    convert,
    floating,
    launch_control,
    matrix,
    memory,
    move,
    scalar,
    select,
    sync,
    tcgen05,
    tcgen05_mma,
    tensormaps,
    tma,
)

__all__ = [
    "async_copy",
    "bits",
    "convert",
    "floating",
    "launch_control",
    "matrix",
    "memory",
    "move",
    "scalar",
    "select",
    "sync",
    "tcgen05",
    "tcgen05_mma",
    "tensormaps",
    "tma",
]
