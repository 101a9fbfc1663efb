"""The micro-operations that work on all 32 lanes at once, as LLVM vector code.

Each operation is one entry of a table: a builder of LLVM instructions on 32-element vectors. From the tables one
function is generated that switches on the operation, loads the source rows as vectors, builds the result and
blends it into the destination row by lane mask. Written as Python loops the same operations compile ten times
slower and run several times slower.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .. import microcode as mc
from .floating import float_table
from .integer import integer_table
from .rows import BOOLS, I32, I64, ROW_BYTES, ROW_TYPES

TABLE = {**integer_table(), **float_table()}


def _row_pointer(b, base32, base64, kind: str, index):
    """Pointer to row `index` of the file that holds rows of type `kind`."""
    base = base32 if kind in "if" else base64
    address = b.add(base, b.mul(index, ir.Constant(I64, ROW_BYTES[kind])))
    return b.inttoptr(address, ROW_TYPES[kind].as_pointer())


def _load(b, pointer, kind: str):
    value = b.load(pointer)
    value.align = 8 if kind in "ld" else 4
    return value


@intrinsic
def execute(typingctx, operation, p32, p64, c0, c1, c2, c3, mask):
    """Carries out `operation` on rows c0 (destination), c1, c2, c3 in the lanes of `mask`; all int64.

    Returns 1, or 0 if the operation is not in the table (then nothing was done).
    """
    signature = types.int64(*[types.int64] * 8)

    def codegen(context, b, sig, args):
        op, base32, base64, *columns, lanes = args
        lane_bits = b.bitcast(b.trunc(lanes, I32), BOOLS)
        result = b.alloca(I64)
        b.store(ir.Constant(I64, 1), result)
        end, missing = b.append_basic_block("end"), b.append_basic_block("missing")
        switch = b.switch(op, missing)
        for number, (kinds, build) in TABLE.items():
            block = b.append_basic_block(mc.NAMES[number])
            switch.add_case(ir.Constant(I64, number), block)
            b.position_at_end(block)
            sources = [
                _load(b, _row_pointer(b, base32, base64, kind, column), kind)
                for kind, column in zip(kinds[1:], columns[1:], strict=False)
            ]
            value = build(b, *sources)
            kind = kinds[0]
            target = _row_pointer(b, base32, base64, kind, columns[0])
            if kind == "p":
                value, kind = b.bitcast(value, ROW_TYPES["l"]), "l"
                target = b.bitcast(target, ROW_TYPES["l"].as_pointer())
            store = b.store(b.select(lane_bits, value, _load(b, target, kind)), target)
            store.align = 8 if kind in "ld" else 4
            b.branch(end)
        b.position_at_end(missing)
        b.store(ir.Constant(I64, 0), result)
        b.branch(end)
        b.position_at_end(end)
        return b.load(result)

    return signature, codegen
