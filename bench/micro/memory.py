"""Global load latency by level, shared loads with bank conflicts."""

from __future__ import annotations

import numpy as np

from bench.micro.base import aligned, consume, fill_shared, pointer, program

LEVELS = {"l1": "ca", "l2": "cg", "dram": "cg"}


def global_chain(count: int, level: str = "dram", stride: int = 4096) -> tuple[str, dict]:
    """One thread follows `count` pointers, `stride` bytes apart, that end where they begin.

    "l1" and "l2" go round once before, with loads that do or do not allocate in L1; "dram" does not. The timed chain
    starts where that ended, plus the clock's top bit, so that a compiler can neither merge nor move its loads.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: one of {', '.join(LEVELS)}")
    chain = aligned(stride * count, np.uint64, 4096)
    following = np.arange(1, count + 1, dtype=np.uint64) % count
    chain[:: stride // 8] = chain.ctypes.data + stride * following
    follow = "\n".join([f"ld.global.{LEVELS[level]}.b64 %rd8, [%rd8];"] * count)
    check = "cvt.u32.u64 %r8, %rd8;\n" + consume(["%r8"])
    prologue = f"""
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra LAST;
    ld.param.u64 %rd8, [chain];
    {"" if level == "dram" else f"{follow}{chr(10)}{check}"}"""
    timed = f"""
    shr.u64 %rd9, %rd60, 63;
    add.u64 %rd8, %rd8, %rd9;
    {follow}
    {check}"""
    return program(prologue, timed, one_thread=True, params=[pointer("chain", chain)], buffers=[chain])


def shared_loads(count: int, ways: int = 1, *, warps: int = 1, dependent: bool = False) -> tuple[str, dict]:
    """`count` 32-bit loads by every lane, `ways` lanes to a bank (different words): a chain, or each its own words."""
    if ways not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"ways {ways}: a power of two up to 32")
    nbytes = -(-(128 * ways + 128 * count) // 512) * 512
    prologue = f"""
    {fill_shared(0, nbytes, 32 * warps)}
    mul.lo.u32 %r8, %r5, {4 * ways};
    add.u32 %r8, %r8, %r1;
    mov.b32 %r9, 0;"""
    lines, used = [], []  # 128 bytes on is the same bank, and cannot be merged into a wider load
    for i in range(count):
        if dependent:
            lines.append("add.u32 %r10, %r8, %r9;\nld.shared.b32 %r9, [%r10];")  # the words are 0
        else:
            lines.append(f"ld.shared.b32 %r{100 + i}, [%r8+{128 * i}];")
            used.append(f"%r{100 + i}")
    lines.append(consume(used or ["%r9"]))
    return program(prologue, "\n".join(lines), warps=warps, shared_bytes=nbytes)


def scattered_loads(count: int) -> tuple[str, dict]:
    """`count` loads of global memory by one warp, every lane of a 128-byte line of its own, all in L1 since before."""
    if not 1 <= count <= 32:
        raise ValueError(f"count {count}: 1..32, the words of a line")
    data = aligned(32 * 128, np.uint32)
    load = [f"ld.global.ca.b32 %r{100 + i}, [%rd8+{4 * i}];" for i in range(count)]
    check = consume([f"%r{100 + i}" for i in range(count)])
    prologue = f"""
    ld.param.u64 %rd8, [data];
    mul.wide.u32 %rd9, %r5, 128;
    add.u64 %rd8, %rd8, %rd9;
    {chr(10).join(load)}
    {check}"""
    timed = chr(10).join(["shr.u64 %rd9, %rd60, 63;", "add.u64 %rd8, %rd8, %rd9;", *load, check])
    return program(prologue, timed, params=[pointer("data", data)], buffers=[data])
