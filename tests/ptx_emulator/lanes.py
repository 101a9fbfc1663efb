"""Runs a few PTX instructions on every element of numpy arrays, one thread an element."""

from __future__ import annotations

import struct

import numpy as np

from ptx_emulator import Program, launch

HEADER = ".version 9.0\n.target sm_100a\n.address_size 64\n"
REGISTER = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}
BLOCK = 64


def program(body: str, n_params: int, *, entry: str = "k", directives: str = "", module: str = "") -> str:
    """A module with one entry that takes `n_params` pointers, loaded to %ptr0, %ptr1, ...

    %tid is the thread's number in the grid's x dimension; spare registers: %r, %rs, %rd, %p, %q (b128).
    """
    params = ", ".join(f".param .u64 p{i}" for i in range(n_params))
    loads = "\n".join(f"ld.param.u64 %ptr{i}, [p{i}];" for i in range(n_params))
    return f"""{HEADER}{module}
.visible .entry {entry}({params}) {directives}
{{
    .reg .pred %p<20>;
    .reg .b16 %rs<40>;
    .reg .b32 %r<80>;
    .reg .b64 %rd<80>;
    .reg .b128 %q<4>;
    .reg .b64 %ptr<20>;
    .reg .b32 %thread, %lane_base;
    {loads}
    mov.u32 %thread, %ctaid.x;
    mov.u32 %lane_base, %ntid.x;
    mad.lo.u32 %thread, %thread, %lane_base, 0;
    mov.u32 %lane_base, %tid.x;
    add.u32 %thread, %thread, %lane_base;
{body}
    ret;
}}
"""


def run(ptx: str | Program, arrays: list[np.ndarray], **options):
    """Launches with a pointer to each array as the parameters."""
    settings = {"grid": (1,), "block": (32,)} | options
    params = [struct.pack("<Q", a.ctypes.data) for a in arrays]
    return launch(ptx, params=params, buffers=arrays, **settings)


def compute(instructions: str, inputs: list[np.ndarray], *output_types) -> list[np.ndarray]:
    """Runs `instructions` for every element; inputs are in %i0, %i1, ..., results expected in %o0, %o1, ...

    Registers are .b16, .b32 or .b64 after the arrays' element sizes. Predicates must be turned into integers.
    """
    n = len(inputs[0])
    padded = -(-n // BLOCK) * BLOCK
    ins = [np.concatenate([x, np.repeat(x[:1], padded - n)]) for x in inputs]
    outs = [np.zeros(padded, t) for t in output_types]
    lines = []
    for i, array in enumerate([*ins, *outs]):
        size = array.itemsize
        name = f"%i{i}" if i < len(ins) else f"%o{i - len(ins)}"
        lines += [f".reg .{REGISTER[size]} {name};", f"mad.wide.u32 %ptr{i}, %thread, {size}, %ptr{i};"]
        if i < len(ins):
            lines.append(f"ld.global.b{8 * size} {name}, [%ptr{i}];")
    lines.append(instructions)
    for k, array in enumerate(outs):
        lines.append(f"st.global.b{8 * array.itemsize} [%ptr{k + len(ins)}], %o{k};")
    run(program("\n".join(lines), len(ins) + len(outs)), [*ins, *outs], grid=(padded // BLOCK,), block=(BLOCK,))
    return [o[:n] for o in outs]


def compute_one(instructions: str, inputs: list[np.ndarray], output_type) -> np.ndarray:
    return compute(instructions, inputs, output_type)[0]


def aligned(nbytes: int, boundary: int = 128) -> np.ndarray:
    """Zeroed uint8[nbytes] at a multiple of `boundary`."""
    raw = np.zeros(nbytes + boundary, np.uint8)
    start = -raw.ctypes.data % boundary
    return raw[start : start + nbytes]


def grid_of(*axes) -> list[np.ndarray]:
    """Every combination of the values of each axis, as flat arrays."""
    return [m.reshape(-1).copy() for m in np.meshgrid(*axes, indexing="ij")]
