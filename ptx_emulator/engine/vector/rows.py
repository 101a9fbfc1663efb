"""Rows of 32 lanes as LLVM vectors, and what their builders have in common.

Row types: i = 32 x i32, l = 32 x i64, f = 32 x float, d = 32 x double, p = 64 x float (the pairs of an r64 row).
"""

from __future__ import annotations

from llvmlite import ir

LANES = 32
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
ROW_TYPES = {
    "i": ir.VectorType(I32, LANES),
    "l": ir.VectorType(I64, LANES),
    "f": ir.VectorType(F32, LANES),
    "d": ir.VectorType(F64, LANES),
    "p": ir.VectorType(F32, 2 * LANES),
}
ROW_BYTES = {"i": 128, "f": 128, "l": 256, "d": 256, "p": 256}
BOOLS = ir.VectorType(I1, LANES)
CANONICAL_NAN = 0x7FFFFFFF


def splat(kind: str, value) -> ir.Constant:
    """A vector constant of row type `kind`."""
    vector = ROW_TYPES[kind]
    return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)


def call(b, name: str, *args):
    """A vector intrinsic of LLVM, overloaded on its first argument's type."""
    vector = args[0].type
    suffix = {I32: "i32", I64: "i64", F32: "f32", F64: "f64"}[vector.element]
    full = f"llvm.{name}.v{vector.count}{suffix}"
    function = b.module.globals.get(full)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(vector, [a.type for a in args]), full)
    return b.call(function, args)


def flag(b, bits):
    """Booleans as rows of 0 and 1."""
    return b.zext(bits, ROW_TYPES["i"])


def as_int(b, x):
    return b.bitcast(x, ROW_TYPES["i"])


def as_float(b, x):
    return b.bitcast(x, ROW_TYPES["f"])
