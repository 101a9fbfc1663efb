"""Small PTX programs for the conformance tests."""

from __future__ import annotations

import struct

import numpy as np

from ptx_emulator import launch

HEADER = ".version 9.0\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n"
ORDERS = ["in_order", "late", "random", "adversarial"]


def kernel(params: str, body: str, *, preds: int = 16, words: int = 400, longs: int = 64) -> str:
    """A PTX module with one entry `k`."""
    return (
        f"{HEADER}.visible .entry k({params})\n{{\n.reg .pred %p<{preds}>;\n.reg .b32 %r<{words}>;\n"
        f".reg .b64 %rd<{longs}>;\n.reg .b16 %rs<8>;\n{body}\nret;\n}}\n"
    )


def wait(barrier: str, parity: str = "0", label: str = "WAIT") -> str:
    return f"{label}:\nmbarrier.try_wait.parity.shared.b64 %p15, [{barrier}], {parity};\n@!%p15 bra {label};\n"


def dump(out: str, start: str, nbytes: int, threads: int, label: str = "DUMP") -> str:
    """Copy shared memory to global memory, 4 bytes a thread and turn. %r0 holds %tid.x. Clobbers the last regs."""
    return f"""
    shl.b32 %r390, %r0, 2;
{label}:
    setp.ge.u32 %p14, %r390, {nbytes};
    @%p14 bra {label}_END;
    add.u32 %r391, {start}, %r390;
    ld.shared.b32 %r392, [%r391];
    cvt.u64.u32 %rd60, %r390;
    add.u64 %rd61, {out}, %rd60;
    st.global.b32 [%rd61], %r392;
    add.u32 %r390, %r390, {4 * threads};
    bra {label};
{label}_END:
"""


def run(ptx: str, params: list[bytes], buffers: list[np.ndarray], **kwargs):
    options = {"grid": (1, 1, 1), "block": (128, 1, 1), "shared_bytes": 32768} | kwargs
    return launch(ptx, "k", params=params, buffers=buffers, **options)


def pointer(array: np.ndarray) -> bytes:
    return struct.pack("<Q", array.ctypes.data)


def aligned(nbytes: int, dtype=np.uint8, boundary: int = 128) -> np.ndarray:
    """A zeroed array of `nbytes` whose address is a multiple of `boundary`."""
    raw = np.zeros(nbytes + boundary, np.uint8)
    skip = -raw.ctypes.data % boundary
    return raw[skip : skip + nbytes].view(dtype)


def random_bytes(nbytes: int, seed: int) -> np.ndarray:
    data = aligned(nbytes)
    data[:] = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    return data
