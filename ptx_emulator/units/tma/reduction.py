"""Elementwise reductions of bulk and tensor copies: cp.reduce.async.bulk and .tensor (PTX ISA 9.7.9.25.4.2)."""

from __future__ import annotations

import numpy as np

REDUCTIONS = ("add", "min", "max", "and", "or", "xor")
REDUCTION_TYPES = {
    "add": ("u32", "s32", "u64", "f32", "f64", "f16", "bf16"),
    "min": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "max": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
}


def check_type(reduction: str, element_type: str) -> None:
    """Raises ValueError unless a tensor of `element_type` can be reduced so. Bitwise ones take unsigned integers."""
    known = REDUCTION_TYPES[reduction]
    name = "b" + element_type[1:] if element_type[0] == "u" and known[0][0] == "b" else element_type
    if name not in known:
        raise ValueError(f"reduction .{reduction} of {element_type} does not exist (known: {', '.join(known)})")


def reduce(old: np.ndarray, new: np.ndarray, reduction: str, element_type: str) -> np.ndarray:
    """Elementwise `reduction` of two uint8 arrays that hold elements of a type; returns uint8.

    Floating-point additions round to nearest even; f32 flushes subnormals (9.7.9.25.4.2).
    """
    if element_type == "bf16":
        wide = [(x.view(np.uint16).astype(np.uint32) << 16).view(np.float32) for x in (old, new)]
        with np.errstate(all="ignore"):
            exact = wide[0] + wide[1] if reduction == "add" else _FUNCTIONS[reduction](*wide)
        bits = exact.view(np.uint32)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        rounded[np.isnan(exact)] = 0x7FFF
        return rounded.view(np.uint8)
    kind = {"f16": np.float16, "f32": np.float32, "f64": np.float64}.get(element_type)
    if kind is None:
        signed = element_type[0] == "s"
        kind = np.dtype(f"{'i' if signed else 'u'}{int(element_type[1:]) // 8}")
    a, b = old.view(kind), new.view(kind)
    if element_type == "f32":
        a, b = _flush(a), _flush(b)
    with np.errstate(all="ignore"):
        result = _FUNCTIONS[reduction](a, b)
    return (_flush(result) if element_type == "f32" else result).view(np.uint8)


_FUNCTIONS = {
    "add": np.add,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def _flush(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < np.float32(2.0**-126), np.copysign(np.float32(0), values), values)
