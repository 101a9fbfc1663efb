"""Building blocks of the compiled engine: raw memory, bit operations, exact rounding.

The engine's functions take host addresses of the register files instead of arrays, because passing and
counting references to arrays costs more than most micro-operations do.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.extending import intrinsic
from numba.np import arrayobj

from . import cache  # noqa: F401  (must run before anything is compiled)
from . import state as st

OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
ENTRY_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
ROWS = 1 << 40  # nominal length of every view; the decoder and the checks keep indices valid


def _view(dtype: type, columns: int = 0):
    """A function from a host address to a numpy view there: [ROWS, columns], or [ROWS] without `columns`.

    An intrinsic, because numba's own `carray` costs many times more to compile and this is used everywhere.
    """
    element = from_dtype(np.dtype(dtype))
    itemsize = np.dtype(dtype).itemsize
    array_type = types.Array(element, 2 if columns else 1, "C")

    @intrinsic
    def view(typingctx, address):
        def codegen(context, builder, signature, args):
            array = context.make_array(array_type)(context, builder)
            data = builder.inttoptr(args[0], context.get_data_type(element).as_pointer())
            shape = [context.get_constant(types.intp, n) for n in ((ROWS, columns) if columns else (ROWS,))]
            steps = (columns * itemsize, itemsize) if columns else (itemsize,)
            strides = [context.get_constant(types.intp, n) for n in steps]
            arrayobj.populate_array(
                array,
                data=data,
                shape=shape,
                strides=strides,
                itemsize=context.get_constant(types.intp, itemsize),
                meminfo=None,
            )
            return array._getvalue()

        return array_type(types.int64), codegen

    return view


int64s = _view(np.int64)
int32s = _view(np.int32)
code_table = _view(np.int32, 8)
rows_u32 = _view(np.uint32, 32)
rows_f32 = _view(np.float32, 32)
rows_u64 = _view(np.uint64, 32)
rows_f64 = _view(np.float64, 32)
rows_f32_pairs = _view(np.float32, 64)  # the r64 file: lane l has elements 2l (low) and 2l + 1
cell_u8 = _view(np.uint8)
cell_u16 = _view(np.uint16)
cell_u32 = _view(np.uint32)
cell_u64 = _view(np.uint64)
cell_f32 = _view(np.float32)
cell_f64 = _view(np.float64)
warp_table = _view(np.int64, st.W_SIZE)
buffer_table = _view(np.int64, 3)


@intrinsic
def _fma(typingctx, a, b, c):
    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), codegen


def _unary(name):
    def declare(typingctx, a):
        def codegen(context, builder, signature, args):
            width = args[0].type
            arguments = [args[0]]
            parameters = [width]
            if name == "ctlz":
                arguments.append(ir.Constant(ir.IntType(1), 0))
                parameters.append(ir.IntType(1))
            function = builder.module.declare_intrinsic(f"llvm.{name}", [width], ir.FunctionType(width, parameters))
            return builder.call(function, arguments)

        return a(a), codegen

    return intrinsic(declare)


popcount = _unary("ctpop")
leading_zeros = _unary("ctlz")
reverse_bits = _unary("bitreverse")


UNCHANGED = 2  # what a native form returns if it is done and nobody can be waiting for what it did


@intrinsic
def call_native(typingctx, function, p_head, p_warp, p_arguments, lanes):
    """Calls the native form (native.py) at host address `function`."""

    def codegen(context, builder, signature, args):
        word = ir.IntType(64)
        pointer = ir.FunctionType(word, [word] * 4).as_pointer()
        return builder.call(builder.inttoptr(args[0], pointer), args[1:])

    return types.int64(*[types.int64] * 5), codegen


@njit(**OPTIONS)
def fma64(a, b, c):
    return _fma(np.float64(a), np.float64(b), np.float64(c))


@njit(**OPTIONS)
def guarded(p32, guard, mask):
    """The lanes of `mask` whose guard predicate holds. `guard`: row + 1, negative for a negated guard."""
    row = rows_u32(p32)[np.uint64(abs(guard) - 1)]
    bits = np.uint32(0)
    for lane in range(32):
        bits |= np.uint32((row[lane] & np.uint32(1)) << np.uint32(lane))
    if guard < 0:
        bits = ~bits
    return np.int64(bits) & mask


def _storing(rows):
    """A function that copies the 32 values at host address `source` to a row of the register file that `rows` views, in
    the lanes of `mask`."""

    @njit(**OPTIONS)
    def store(registers, row, source, mask):
        d = rows(registers)[np.uint64(row)]
        t = rows(source)[np.uint64(0)]
        if mask == st.FULL_MASK:
            for lane in range(32):
                d[lane] = t[lane]
        else:
            for lane in range(32):
                if (np.uint32(mask) >> np.uint32(lane)) & np.uint32(1):
                    d[lane] = t[lane]

    return store


store32 = _storing(rows_u32)
store64 = _storing(rows_u64)


@njit(**OPTIONS)
def mulhi_u64(a, b):
    """High 64 bits of the unsigned 128-bit product."""
    low = np.uint64(0xFFFFFFFF)
    s = np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> s, b & low, b >> s
    mid = a1 * b0 + ((a0 * b0) >> s)
    return a1 * b1 + (mid >> s) + ((a0 * b1 + (mid & low)) >> s)


@njit(**OPTIONS)
def bits_of_f64(x):
    return np.int64(np.float64(x).view(np.int64))


@njit(**OPTIONS)
def f64_of_bits(x):
    return np.int64(x).view(np.float64)


@njit(**OPTIONS)
def round_to_odd(high, low):
    """The double that rounds like the exact sum high + low (|low| below half an ulp of high) in any format
    of at most 51 significand bits: when low is not 0 the last bit is made 1 on the side of low."""
    if low == 0.0 or not math.isfinite(high):
        return high
    bits = bits_of_f64(high)
    if bits & 1:
        return high
    away = (low > 0.0) == (high > 0.0)
    if high == 0.0:
        return low
    return f64_of_bits(bits + 1 if away else bits - 1)


@njit(**OPTIONS)
def exact_sum(a, b):
    """(s, e): s = a + b rounded to nearest and the error, s + e == a + b (Knuth's two-sum)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


RN, RZ, RM, RP, RNA = 0, 1, 2, 3, 4


@njit(**OPTIONS)
def round_f32(x, mode):
    """The double x rounded to fp32 in `mode`: 0 nearest even, 1 toward zero, 2 down, 3 up. Subnormals kept."""
    r = np.float32(x)
    if mode == 0 or not math.isfinite(x):
        return r
    back = np.float64(r)
    if back == x:
        return r
    toward_zero = mode == 1 or (mode == 2 and x > 0.0) or (mode == 3 and x < 0.0)
    magnitude_up = abs(back) > abs(x)
    bits = np.float32(r).view(np.int32)
    if toward_zero and magnitude_up:
        bits -= np.int32(1)
    elif not toward_zero and not magnitude_up:
        bits += np.int32(1)
    return np.int32(bits).view(np.float32)
