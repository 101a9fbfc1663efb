"""TMA loads into a ring of stages: the round trip of one load, and loads in flight; bulk stores."""

from __future__ import annotations

import numpy as np

from bench.micro.base import MARK, aligned, fill_shared, pointer, program, wait
from ptx_emulator.units.tma.tensormap import TensorMap

ROW = 128  # bytes of a box's row: one 128-byte swizzle span


def loads(nbytes: int, stages: int = 1, count: int = 8, *, ctas: int = 1, again: bool = False) -> tuple[str, dict]:
    """One thread per CTA loads `count` boxes of `nbytes` through `stages` slots: each slot is refilled when it is full.
    The mark is behind the first `stages`.

    `again`: every load reads the same box (L2 after the first); otherwise each reads bytes of its own.
    """
    rows = nbytes // ROW
    if nbytes % ROW or not 1 <= rows <= 256:
        raise ValueError(f"nbytes {nbytes}: a multiple of {ROW} up to {256 * ROW}")
    boxes = ctas if again else ctas * count
    data = aligned(boxes * nbytes)
    tensor = TensorMap(data.ctypes.data, "u8", (ROW, boxes * rows), (ROW,), (ROW, rows), swizzle="128B")

    def load(i: int) -> str:
        slot = i % stages
        return f"""
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+{8 * slot}], {nbytes};
    add.u32 %r11, %r10, {0 if again else i * rows};
    cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1+{1024 + slot * nbytes}], \
[%rd8, {{%r12, %r11}}], [%r1+{8 * slot}];"""

    lines = [*(load(i) for i in range(min(stages, count))), MARK]
    for i in range(count):
        lines.append(wait(f"%r1+{8 * (i % stages)}", i // stages % 2, f"FULL_{i}"))
        if i + stages < count:
            lines.append(load(i + stages))
    prologue = f"""
    mov.b64 %rd8, map;
    cvta.param.u64 %rd8, %rd8;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra LAST;
    {chr(10).join(f"mbarrier.init.shared::cta.b64 [%r1+{8 * slot}], 1;" for slot in range(stages))}
    fence.mbarrier_init.release.cluster;
    fence.proxy.async.shared::cta;
    mul.lo.u32 %r10, %r4, {rows if again else rows * count};
    mov.b32 %r12, 0;"""
    return program(
        prologue,
        "\n".join(lines),
        one_thread=True,
        ctas=ctas,
        shared_bytes=1024 + stages * nbytes,
        params=[(".param .align 64 .b8 map[128]", tensor.to_bytes())],
        buffers=[np.frombuffer(data, np.uint8)],
    )


def stores(nbytes: int, count: int) -> tuple[str, dict]:
    """One thread stores `nbytes` of shared memory `count` times in bulk, each to bytes of its own, and waits for all."""
    data = aligned(nbytes * count)
    prologue = f"""
    {fill_shared(1024, nbytes, 32)}
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra LAST;
    ld.param.u64 %rd8, [data];"""
    lines = []
    for i in range(count):
        lines.append(f"cp.async.bulk.global.shared::cta.bulk_group [%rd8], [%r1+1024], {nbytes};")
        lines.append(f"add.u64 %rd8, %rd8, {nbytes};")
    lines.append("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;")
    shared = 1024 + nbytes
    return program(prologue, "\n".join(lines), one_thread=True, shared_bytes=shared,
                   params=[pointer("data", data)], buffers=[np.frombuffer(data, np.uint8)])  # fmt: skip
