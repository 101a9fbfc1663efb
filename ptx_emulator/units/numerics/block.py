"""Sixteen results of a tensor core's fused dot product at once, as LLVM vector code.

The same rules as in floating.py (alignment to the largest exponent, cut off below 25 fraction bits, one rounding
toward zero), in float32 and int32 where these are exact:

- a product of two significands of at most 11 bits is exact in float32, and so is its scaling by a power of two; one
  that underflows is below the cut while the largest exponent is at least LOWEST;
- a scaled product is below 2**27, so sixteen of them fit an int32;
- the sum is turned into float32 by cutting off what 24 bits do not hold, and scaling that is exact again.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WIDTH = 16
FRACTION_BITS = 25
LOWEST, HIGHEST = -100, 120  # of the largest exponent of a sum
ALL_ZERO = -500  # below it every product and the accumulator are zero: a zero has the exponent -1000

_I1, _I32, _I64, _F32 = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS, _BOOLS = (ir.VectorType(t, WIDTH) for t in (_I32, _F32, _I1))
_SIGN = 0x80000000


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [ir.Constant(_I32, value)] * WIDTH)


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [ir.Constant(_F32, value)] * WIDTH)


def _spread(b, scalar):
    """A vector of copies of a scalar."""
    vector = b.insert_element(ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined), scalar, _I32(0))
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), _ints(0))


def _load(b, address, offset, kind):
    value = b.load(b.inttoptr(b.add(address, offset), kind.as_pointer()))
    value.align = 4
    return value


def _larger(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _power(b, exponent):
    """2.0**exponent of integers from -126 to 127."""
    return b.bitcast(b.shl(b.add(exponent, _ints(127)), _ints(23)), _FLOATS)


def _accumulator(b, words):
    """(value, exponent as float, whether it is infinite or NaN) of float32 bits."""
    field = b.and_(b.lshr(words, _ints(23)), _ints(255))
    normal = b.select(b.icmp_unsigned("==", field, _ints(0)), _ints(1), field)
    exponent = b.sitofp(b.sub(normal, _ints(127)), _FLOATS)
    zero = b.icmp_unsigned("==", b.shl(words, _ints(1)), _ints(0))
    return (
        b.bitcast(words, _FLOATS),
        b.select(zero, _floats(-1000.0), exponent),
        b.icmp_unsigned("==", field, _ints(255)),
    )


def _round(b, total, unit):
    """Bits of the float32 toward zero of total * unit; |total| is at most 2**31 - 2**24, a zero becomes +0."""
    negative = b.icmp_signed("<", total, _ints(0))
    magnitude = b.select(negative, b.sub(_ints(0), total), total)
    near = b.sitofp(magnitude, _FLOATS)
    above = b.icmp_signed(">", b.fptosi(near, _INTS), magnitude)
    down = b.add(b.bitcast(near, _INTS), b.sext(above, _INTS))
    return b.or_(b.bitcast(b.fmul(b.bitcast(down, _FLOATS), unit), _INTS), b.and_(total, _ints(_SIGN)))


def _sums(b, k_count: int, scaled_product):
    """(the sum of `k_count` truncated products, whether an int32 might not hold it and the accumulator)."""
    limit = (1 << 31) - (1 << 27) if k_count <= 16 else (1 << 30) - (1 << 27)
    total, large = None, None
    for first in range(0, k_count, 16):
        group = None
        for k in range(first, min(first + 16, k_count)):
            product = scaled_product(k)
            group = product if group is None else b.add(group, product)
        beyond = b.icmp_unsigned(">", b.add(group, _ints(limit)), _ints(2 * limit))
        total = group if total is None else b.add(total, group)
        large = beyond if large is None else b.or_(large, beyond)
    return total, large


def _define(k_count: int):
    @intrinsic
    def dot(typingctx, a_value, a_exponent, b_value, b_exponent, words, keep):
        signature = types.int64(*[types.int64] * 6)

        def codegen(context, b, sig, args):
            values_a, exponents_a, values_b, exponents_b, place, kept = args
            value, largest, bad = _accumulator(
                b, b.and_(_load(b, place, _I64(0), _INTS), _spread(b, b.trunc(kept, _I32)))
            )

            def scalar(base, k):
                return _spread(b, _load(b, base, _I64(4 * k), _F32))

            def row(base, k):
                return _load(b, base, _I64(4 * WIDTH * k), _FLOATS)

            exponents = [b.fadd(scalar(exponents_a, k), row(exponents_b, k)) for k in range(k_count)]
            for first, second in zip(exponents[::2], exponents[1::2], strict=True):
                largest = _larger(b, _larger(b, first, second), largest)
            outside = b.and_(
                b.fcmp_ordered("<", largest, _floats(LOWEST)), b.fcmp_ordered(">", largest, _floats(ALL_ZERO))
            )
            bad = b.or_(bad, b.or_(outside, b.fcmp_ordered(">", largest, _floats(HIGHEST))))
            clamped = b.fptosi(_larger(b, largest, _floats(LOWEST)), _INTS)
            scale = _power(b, b.sub(_ints(FRACTION_BITS), clamped))

            def scaled_product(k):
                product = b.fmul(scalar(values_a, k), row(values_b, k))
                return b.fptosi(b.fmul(product, scale), _INTS)

            total, large = _sums(b, k_count, scaled_product)
            total = b.add(total, b.fptosi(b.fmul(value, scale), _INTS))
            result = _round(b, total, _power(b, b.sub(clamped, _ints(FRACTION_BITS))))
            fits = b.icmp_unsigned("==", b.bitcast(b.or_(bad, large), ir.IntType(WIDTH)), ir.IntType(WIDTH)(0))
            with b.if_then(fits, likely=True):
                store = b.store(result, b.inttoptr(place, _INTS.as_pointer()))
                store.align = 4
            return b.zext(fits, _I64)

        return signature, codegen

    return dot


# dot_K(a_value, a_exponent, b_value, b_exponent, words, keep), all int64:
#     a_value, a_exponent   host addresses of float32 [K]
#     b_value, b_exponent   host addresses of float32 [K, 16]
#     words                 host address of 16 float32 accumulators, replaced by the results
#     keep                  -1: the accumulators are added; 0: they count as zero
# Returns 1, or 0 where this arithmetic is not exact or an accumulator is infinite or NaN: then nothing was written.
# Operands must be finite. fptosi of lanes that are not exact may be any number.
dot_8, dot_16, dot_32 = _define(8), _define(16), _define(32)
