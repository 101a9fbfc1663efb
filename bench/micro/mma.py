"""Back-to-back tcgen05.mma of one shape: interval (slope over `count`) and latency (count = 1)."""

from __future__ import annotations

import numpy as np

from bench.micro.base import MARK, aligned, consume, fill_shared, pointer, program, registers, wait

TYPES = {"f16": 1, "f8f6f4": 0}  # codes of A and B: bf16, e4m3
A_OFFSET, B_OFFSET = 1024, 1024 + 32768
ZEROS = 512  # byte of shared memory where a zero is
A_COLUMN = 256  # of A in Tensor Memory; D is in columns 0..
STEPS = 4  # K steps (32 bytes each) in a 128-byte swizzle span, used in turn


def instruction_descriptor(m: int, n: int, kind: str) -> int:
    """f32 accumulator, both operands K-major."""
    return 1 << 4 | TYPES[kind] << 7 | TYPES[kind] << 10 | n >> 3 << 17 | m >> 4 << 24


ONES = {"f16": 0x3F803F80, "f8f6f4": 0x38383838}  # bf16 and e4m3 ones


# To where a mark is, less what is taken off it as the clock before.
_NANOSECONDS = """mov.u64 %rd51, %globaltimer;
    sub.u64 %rd51, %rd51, %rd50;
    add.u64 %rd62, %rd51, %rd60;"""


def _reads(loads: int) -> str:
    """What the other thread does, while the one that multiplies does not come to the clocks."""
    lines = ["bra END;\nREAD:", "mov.b32 %r15, 0;"]
    for _ in range(loads):
        lines.append(f"add.u32 %r16, %r1, %r15;\nld.shared.b32 %r15, [%r16+{ZEROS}];")
    return "\n".join([*lines, consume(["%r15"])])


def chain(
    count: int,
    m: int,
    n: int,
    kind: str = "f16",
    *,
    a_tmem: bool = False,
    ws: bool = False,
    group: int = 1,
    spread: int = 1,
    loads: int = 0,
    rounds: int = 0,
    ctas: int = 1,
) -> tuple[str, dict]:
    """One thread issues `count` MMAs of m x n x 32 bytes of K, one commit, and waits; the mark is after the issue.

    `spread`: accumulators used in turn (1: every MMA adds to the same one). m counts the rows of the pair if group = 2.
    Operands are K-major in 128-byte swizzle, all ones; `a_tmem`: A in Tensor Memory. `buffers[1]`, float32 [CTAs, 128]:
    column 0 of Tensor Memory at the end, K times the MMAs that added to it where D has a row.

    `loads`: what is timed are so many dependent loads of shared memory by another thread, beside the MMAs. `rounds`: the
    MMAs are issued so often, and the mark is the nanoseconds that passed. `ctas`: CTAs, of pairs one.
    """
    rows_b = n // group
    if ws:
        width = n * m // 128
    else:
        width = n // 2 if group == 2 and m == 128 else n
    if spread * width > (A_COLUMN if a_tmem else 512):
        raise ValueError(f"{spread} accumulators of {width} columns do not fit in Tensor Memory")
    name = f"tcgen05.mma{'.ws' if ws else ''}.cta_group::{group}.kind::{kind}"
    steps = []
    for step in range(STEPS):
        steps.append(f"add.u64 %rd{20 + step}, %rd18, {2 * step};\nadd.u64 %rd{30 + step}, %rd19, {2 * step};")
    issue = []
    for i in range(count):
        a = f"[%r{20 + i % STEPS}]" if a_tmem else f"%rd{20 + i % STEPS}"
        issue.append(f"{name} [%r{30 + i % spread}], {a}, %rd{30 + i % STEPS}, %r19, {'%p4' if i < spread else '%p1'};")
    if rounds:
        issue = ["mov.b32 %r14, 0;", "ROUND:", *issue, "add.u32 %r14, %r14, 1;", f"setp.ne.u32 %p6, %r14, {rounds};"]
        issue = ["mov.u64 %rd50, %globaltimer;", *issue, "@%p6 bra ROUND;"]
    tmem = [f"add.u32 %r{20 + s}, %r10, {A_COLUMN + 8 * s};" for s in range(STEPS)]
    tmem += [f"add.u32 %r{30 + s}, %r10, {s * width};" for s in range(spread)]
    fill = ""
    if a_tmem:
        zeros = "\n".join(f"mov.b32 %r{100 + i}, {ONES[kind]};" for i in range(32))
        fill = f"""{zeros}
    shl.b32 %r9, %r2, 21;
    add.u32 %r9, %r9, %r10;
    tcgen05.st.sync.aligned.32x32b.x32.b32 [%r9+{A_COLUMN}], {registers(100, 32)};
    tcgen05.wait::st.sync.aligned;
    tcgen05.fence::before_thread_sync;"""
    pair_sync = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
    template = 1 << 46 | 2 << 61 | 64 << 32  # version, 128-byte swizzle, 1024 bytes from 8 rows to the next
    prologue = f"""
    {fill_shared(A_OFFSET, B_OFFSET - A_OFFSET + rows_b * 128, 128, ONES[kind])}
    setp.ne.u32 %p0, %r2, 0;
    @%p0 bra ALLOCATED;
    tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [%r1+16], 512;
    tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;
ALLOCATED:
    setp.ne.u32 %p2, %r0, 0;
    @%p2 bra READY;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    st.shared.b32 [%r1+{ZEROS}], 0;
READY:
    bar.sync 0;
    ld.shared.b32 %r10, [%r1+16];
    {fill}
    {pair_sync if group == 2 else "bar.sync 0;"}
    tcgen05.fence::after_thread_sync;
    mov.b32 %r19, {instruction_descriptor(m, n, kind)};
    add.u32 %r11, %r1, {A_OFFSET};
    add.u32 %r12, %r1, {B_OFFSET};
    shr.u32 %r11, %r11, 4;
    shr.u32 %r12, %r12, 4;
    cvt.u64.u32 %rd18, %r11;
    cvt.u64.u32 %rd19, %r12;
    or.b64 %rd18, %rd18, {template};
    or.b64 %rd19, %rd19, {template};
    {chr(10).join(steps)}
    {chr(10).join(tmem)}
    setp.eq.u32 %p1, %r1, %r1;
    setp.ne.u32 %p4, %r1, %r1;
    and.b32 %r13, %r0, {0xFFFFFFFF if not loads else 0xFFFFFFDF};
    or.b32 %r13, %r13, %r3;
    setp.ne.u32 %p3, %r13, 0;
    setp.ne.u32 %p5, %r0, 0;
    @%p3 bra LAST;"""
    timed = f"""
    {"@%p5 bra READ;" if loads else ""}
    {chr(10).join(issue)}
    {"" if rounds else MARK}
    tcgen05.commit.cta_group::{group}.mbarrier::arrive::one.shared::cluster.b64 [%r1];
    {wait("%r1", 0, "DONE")}
    {_NANOSECONDS if rounds else ""}
    {_reads(loads) if loads else ""}"""
    epilogue = f"""
    tcgen05.fence::after_thread_sync;
    tcgen05.fence::before_thread_sync;
    {pair_sync if group == 2 else "bar.sync 0;"}
    tcgen05.fence::after_thread_sync;
    shl.b32 %r9, %r2, 21;
    add.u32 %r9, %r9, %r10;
    tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r8}}, [%r9];
    tcgen05.wait::ld.sync.aligned;
    ld.param.u64 %rd8, [column];
    mad.lo.u32 %r9, %r4, 128, %r0;
    mad.wide.u32 %rd8, %r9, 4, %rd8;
    st.global.b32 [%rd8], %r8;
    tcgen05.fence::before_thread_sync;
    {pair_sync if group == 2 else "bar.sync 0;"}
    @%p0 bra FREED;
    tcgen05.fence::after_thread_sync;
    tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 %r10, 512;
FREED:"""
    column = aligned(group * ctas * 512, np.float32)
    return program(
        prologue,
        timed,
        epilogue,
        warps=4,
        one_thread=True,
        ctas=group * ctas,
        cluster=group,
        shared_bytes=B_OFFSET + rows_b * 128 + 1024,
        params=[pointer("column", column)],
        buffers=[column],
    )
