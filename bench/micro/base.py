"""What the timing programs share: a kernel around timed PTX, with one pair of clocks per warp.

Every program is (ptx, options) for `ptx_emulator.launch(ptx, "k", **options)`; `options["buffers"][0]` is `clocks`,
uint64 [CTAs, warps, 2]: cycles from before the timed code to after it, and to a mark within (0 where there is none).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

HEADER = ".version 9.0\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n"
START = "mov.u64 %rd60, %clock64;"
MARK = "mov.u64 %rd62, %clock64;"
STOP = "mov.u64 %rd61, %clock64;"


def aligned(nbytes: int, dtype=np.uint8, boundary: int = 128) -> np.ndarray:
    """A zeroed array whose address is a multiple of `boundary`."""
    raw = np.zeros(nbytes + boundary, np.uint8)
    skip = -raw.ctypes.data % boundary
    return raw[skip : skip + nbytes].view(dtype)


def wait(barrier: str, parity: int | str, label: str) -> str:
    """Spin until the phase of `parity` has completed."""
    return f"{label}:\nmbarrier.try_wait.parity.shared::cta.b64 %p15, [{barrier}], {parity};\n@!%p15 bra {label};"


def consume(registers: Sequence[str]) -> str:
    """Make the next clock depend on the registers: a branch that is never taken needs all of them."""
    lines = ["mov.b32 %r900, 0;"]
    lines += [f"xor.b32 %r900, %r900, {register};" for register in registers]
    return "\n".join([*lines, "setp.eq.u32 %p14, %r900, 0x5EA1ED00;", "@%p14 bra END;"])


def program(
    prologue: str,
    timed: str,
    epilogue: str = "",
    *,
    warps: int = 1,
    one_thread: bool = False,
    ctas: int = 1,
    cluster: int = 1,
    shared_bytes: int = 0,
    params: Sequence[tuple[str, bytes]] = (),
    buffers: Sequence[np.ndarray] = (),
) -> tuple[str, dict]:
    """A kernel: `prologue`, `timed` between two clocks, the clocks' store, `epilogue`.

    %r0 is %tid.x, %r1 the dynamic shared memory, %r2 the warp, %r3 the CTA's rank in its cluster, %r4 the CTA,
    %r5 the lane; %r8.., %rd8.., %p0..%p12 and %f are free. Clocks are stored by lane 0 of every warp that comes to the
    timed code: all lanes of a warp do, or (`one_thread`) one does and the others have branched to LAST, where all meet
    before the epilogue. `params` are declared after the clocks' pointer: (declaration, bytes).
    """
    clocks = aligned(ctas * warps * 16, np.uint64)
    declarations = ", ".join([".param .u64 clocks", *(declaration for declaration, _ in params)])
    ptx = f"""{HEADER}.visible .entry k({declarations})
{{
.reg .pred %p<16>;
.reg .b16 %rs<8>;
.reg .b32 %r<1000>;
.reg .f32 %f<300>;
.reg .b64 %rd<64>;
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    shr.u32 %r2, %r0, 5;
    mov.u32 %r3, %cluster_ctarank;
    mov.u32 %r4, %ctaid.x;
    and.b32 %r5, %r0, 31;
    mov.u64 %rd62, 0;
    {prologue}
    {"" if one_thread else "bar.warp.sync -1;"}
    {START}
    {timed}
    {STOP}
    setp.ne.u32 %p14, %r5, 0;
    @%p14 bra END;
    ld.param.u64 %rd63, [clocks];
    mad.lo.u32 %r6, %r4, {warps}, %r2;
    mad.wide.u32 %rd63, %r6, 16, %rd63;
    sub.u64 %rd61, %rd61, %rd60;
    setp.ne.u64 %p14, %rd62, 0;
    @%p14 sub.u64 %rd62, %rd62, %rd60;
    st.global.v2.b64 [%rd63], {{%rd61, %rd62}};
END:
LAST:
    bar.warp.sync -1;
    {epilogue}
    ret;
}}
"""
    options = {
        "grid": (ctas, 1, 1),
        "block": (32 * warps, 1, 1),
        "cluster": (cluster, 1, 1),
        "shared_bytes": shared_bytes,
        "params": [struct.pack("<Q", clocks.ctypes.data), *(data for _, data in params)],
        "buffers": [clocks, *buffers],
    }
    return ptx, options


def fill_shared(first: int, nbytes: int, threads: int, word: int = 0, label: str = "FILL") -> str:
    """All threads write `word` to `nbytes` of shared memory from smem + `first`, then wait for each other."""
    return f"""
    shl.b32 %r901, %r0, 4;
    mov.b32 %r902, {word};
{label}:
    setp.ge.u32 %p13, %r901, {nbytes};
    @%p13 bra {label}_END;
    add.u32 %r903, %r1, %r901;
    st.shared.v4.b32 [%r903+{first}], {{%r902, %r902, %r902, %r902}};
    add.u32 %r901, %r901, {16 * threads};
    bra {label};
{label}_END:
    fence.proxy.async.shared::cta;
    bar.sync 0;"""


def registers(first: int, count: int, name: str = "%r") -> str:
    """`{%r8, %r9, ...}`."""
    return "{" + ", ".join(f"{name}{first + i}" for i in range(count)) + "}"


def pointer(name: str, array: np.ndarray) -> tuple[str, bytes]:
    """A `.param` that holds an array's address."""
    return f".param .u64 {name}", struct.pack("<Q", array.ctypes.data)
