"""Tensor Memory traffic: tcgen05.ld, tcgen05.st, and the rescale of an accumulator (load, multiply, store)."""

from __future__ import annotations

from bench.micro.base import consume, fill_shared, program, registers, wait

COLUMNS = 512
REGISTERS = 192  # for values in flight


def _around(timed: str, warps: int, setup: str = "", shared_bytes: int = 1024) -> tuple[str, dict]:
    """The timed code between allocation and release; %r9 is the warp's address of column 0."""
    prologue = f"""
    setp.ne.u32 %p0, %r2, 0;
    @%p0 bra ALLOCATED;
    tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], {COLUMNS};
ALLOCATED:
    bar.sync 0;
    ld.shared.b32 %r10, [%r1];
    and.b32 %r9, %r2, 3;
    shl.b32 %r9, %r9, 21;
    add.u32 %r9, %r9, %r10;
    {setup}
    bar.sync 0;"""
    epilogue = f"""
    tcgen05.fence::before_thread_sync;
    bar.sync 0;
    @%p0 bra FREED;
    tcgen05.fence::after_thread_sync;
    tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, {COLUMNS};
FREED:"""
    return program(prologue, timed, epilogue, warps=warps, shared_bytes=shared_bytes)


def _zeros(columns: int, width: int = 32) -> str:
    """Zeros in columns 0.., and in %r100.. (`width` registers)."""
    lines = [f"mov.b32 %r{100 + i}, 0;" for i in range(width)]
    for first in range(0, columns, width):
        lines.append(f"tcgen05.st.sync.aligned.32x32b.x{width}.b32 [%r9+{first}], {registers(100, width)};")
    return "\n".join([*lines, "tcgen05.wait::st.sync.aligned;"])


def load(count: int, width: int = 32, *, warps: int = 1, wait_each: bool = False) -> tuple[str, dict]:
    """`count` loads of `width` columns by every warp, consecutive columns, one wait at the end or one after each.

    A register of each load is consumed after its wait (a load of which nothing is used would be left out by ptxas), so
    without `wait_each` all of them must fit in registers.
    """
    if not wait_each and count * width > REGISTERS:
        raise ValueError(f"{count} loads of {width} columns need more than {REGISTERS} registers: use wait_each")
    lines, used = [], []
    for i in range(count):
        first = 100 + (0 if wait_each else i * width)
        column = i % (COLUMNS // width) * width
        lines.append(f"tcgen05.ld.sync.aligned.32x32b.x{width}.b32 {registers(first, width)}, [%r9+{column}];")
        used.append(f"%r{first}")
        if wait_each:
            lines.append(f"tcgen05.wait::ld.sync.aligned;\n{consume([f'%r{first}'])}")
    if not wait_each:
        lines.append(f"tcgen05.wait::ld.sync.aligned;\n{consume(used)}")
    return _around("\n".join(lines), warps, _zeros(COLUMNS))


def store(count: int, width: int = 32, *, warps: int = 1, wait_each: bool = False) -> tuple[str, dict]:
    """`count` stores of `width` columns by every warp, consecutive columns, one wait at the end or one after each."""
    lines = []
    for i in range(count):
        column = i % (COLUMNS // width) * width
        lines.append(f"tcgen05.st.sync.aligned.32x32b.x{width}.b32 [%r9+{column}], {registers(100, width)};")
        if wait_each or i == count - 1:
            lines.append("tcgen05.wait::st.sync.aligned;")
    return _around("\n".join(lines), warps, "\n".join(f"mov.b32 %r{100 + i}, 0;" for i in range(width)))


def rescale(chunks: int, width: int = 64, *, warps: int = 4) -> tuple[str, dict]:
    """`chunks` times in series: load `width` columns, multiply each by a factor, store, wait for the store."""
    values = registers(0, width, "%f")
    lines = []
    for chunk in range(chunks):
        column = chunk * width % COLUMNS
        lines.append(f"tcgen05.ld.sync.aligned.32x32b.x{width}.b32 {values}, [%r9+{column}];")
        lines.append("tcgen05.wait::ld.sync.aligned;")
        lines += [f"mul.f32 %f{i}, %f{i}, %f299;" for i in range(width)]
        lines.append(f"tcgen05.st.sync.aligned.32x32b.x{width}.b32 [%r9+{column}], {values};")
        lines.append("tcgen05.wait::st.sync.aligned;")
    return _around("\n".join(lines), warps, _zeros(min(COLUMNS, chunks * width)) + "\nmov.f32 %f299, 0f3F000000;")


def waits(count: int) -> tuple[str, dict]:
    """`count` times a wait for loads, of which there are none."""
    return _around("\n".join(["tcgen05.wait::ld.sync.aligned;"] * count), 1)


def allocations(count: int) -> tuple[str, dict]:
    """`count` times 32 columns allocated and given back, by one warp."""
    line = (
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;\nld.shared.b32 %r10, [%r1];\n"
        "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 32;"
    )
    return program("", "\n".join([line] * count), shared_bytes=1024)


def copies(count: int) -> tuple[str, dict]:
    """One thread copies 128 rows of 32 bytes from shared memory `count` times, commits, and waits."""
    core_matrices = 1 << 46 | (128 >> 4) << 16 | (256 >> 4) << 32  # no swizzle, next to each other
    setup = f"""
    {fill_shared(1024, 4096, 128)}
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r1+16], 1;
    fence.mbarrier_init.release.cluster;
READY:
    add.u32 %r11, %r1, 16;
    add.u32 %r12, %r1, 1024;
    shr.u32 %r12, %r12, 4;
    cvt.u64.u32 %rd18, %r12;
    or.b64 %rd18, %rd18, {core_matrices};"""
    lines = ["@%p1 bra COPIED;", *["tcgen05.cp.cta_group::1.128x256b [%r10], %rd18;"] * count]
    lines.append("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r11];")
    lines.append(f"{wait('%r11', 0, 'DONE')}\nCOPIED:\nbar.warp.sync -1;")
    return _around("\n".join(lines), 4, setup, shared_bytes=8192)
