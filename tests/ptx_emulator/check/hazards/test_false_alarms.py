"""Right kernels that were called wrong; beside each what is wrong indeed."""

from __future__ import annotations

import pytest

from ...helpers import aligned, kernel, pointer, run
from .patterns import ALLOC, START, inits


def hazards(body: str, *, params: str = "", buffers: tuple = (), **options):
    options = {"block": (64, 1, 1), "checks": True} | options
    return run(kernel(params, body), [pointer(b) for b in buffers], list(buffers), **options).hazards


# One lane of warp 0 raises a flag in shared memory for warp 1.
ELECTED_FLAG = (
    START
    + """
    @%p0 st.shared.b32 [%r3+512], 0;
    bar.sync 0;
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    @%p1 bra SPIN;
    {who} st.shared.b32 [%r4], %r0;
    {sync}
    @%p0 {raise_flag}
    bra DONE;
SPIN:
    ld.acquire.cta.shared.b32 %r5, [%r3+512];
    setp.eq.u32 %p5, %r5, 0;
    @%p5 bra SPIN;
    ld.shared.b32 %r6, [%r3];
DONE:
"""
)
FLAGS = [
    "st.release.cta.shared.b32 [%r3+512], 1;",
    "atom.release.cta.shared.add.u32 %r9, [%r3+512], 1;",
    "red.release.cta.shared.add.u32 [%r3+512], 1;",
]


@pytest.mark.parametrize("raise_flag", FLAGS)
@pytest.mark.parametrize("who, sync, kinds", [
    ("@%p0", "", []), ("", "bar.warp.sync -1;", []), ("", "", ["elected-arrive"]),
])  # fmt: skip
def test_a_release_by_one_lane(raise_flag, who, sync, kinds):
    found = hazards(ELECTED_FLAG.format(who=who, sync=sync, raise_flag=raise_flag))
    assert [h.kind for h in found] == kinds, [str(h) for h in found]


# Warp 0 stores into Tensor Memory, warp 4 (the same lanes) loads it after a flag.
TENSOR_FLAG = (
    START
    + "setp.eq.u32 %p4, %r1, 4;\n@%p0 st.shared.b32 [%r3+512], 0;\n"
    + ALLOC
    + """
    @!%p2 bra OTHER;
    tcgen05.st.sync.aligned.32x32b.x1.b32 [%r10], {{%r0}};
    tcgen05.wait::st.sync.aligned;
    {before}
    bar.warp.sync -1;
    @%p0 {give}
    bra END;
OTHER:
    @!%p4 bra END;
SPIN:
    {take} %r5, [%r3+512];
    setp.eq.u32 %p5, %r5, 0;
    @%p5 bra SPIN;
    {after}
    tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r6}}, [%r10];
    tcgen05.wait::ld.sync.aligned;
    tcgen05.fence::before_thread_sync;
END:
    bar.sync 0;
    tcgen05.fence::after_thread_sync;
    @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 64;
"""
)
RELEASE = {"give": "st.release.cta.shared.b32 [%r3+512], 1;", "take": "ld.acquire.cta.shared.b32"}
FENCED = {
    "give": "fence.acq_rel.cta;\n@%p0 st.relaxed.cta.shared.b32 [%r3+512], 1;", "take": "ld.relaxed.cta.shared.b32",
}  # fmt: skip
BEFORE, AFTER = "tcgen05.fence::before_thread_sync;", "tcgen05.fence::after_thread_sync;"


@pytest.mark.parametrize("parts, before, after, kinds", [
    (RELEASE, BEFORE, AFTER, set()),
    (FENCED, BEFORE, "fence.acq_rel.cta;\n" + AFTER, set()),
    (RELEASE, "", AFTER, {"tcgen05-fence"}),
    (RELEASE, BEFORE, "", {"tcgen05-fence"}),
])  # fmt: skip
def test_tensor_memory_handed_over_by_a_flag(parts, before, after, kinds):
    found = hazards(TENSOR_FLAG.format(before=before, after=after, **parts), block=(160, 1, 1))
    assert {h.kind for h in found} == kinds, [str(h) for h in found]


# Thread 0 of each warp adds 16 bytes of its own to one place in global memory.
REDUCE = (
    START
    + """
    ld.param.b64 %rd1, [out];
    shl.b32 %r4, %r1, 4;
    add.u32 %r4, %r4, %r3;
    @%p3 st.shared.v4.b32 [%r4], {{%r0, %r0, %r0, %r0}};
    fence.proxy.async.shared::cta;
    @%p3 cp.{what}.bulk.global.shared::cta.bulk_group{type} [%rd1], [%r4], 16;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
"""
)


@pytest.mark.parametrize("what, type_, kinds", [
    ("reduce.async", ".add.u32", set()), ("async", "", {"race", "grid-race"}),
])  # fmt: skip
def test_bulk_reductions_of_several_warps_and_ctas(what, type_, kinds):
    out = aligned(64)
    found = hazards(REDUCE.format(what=what, type=type_), params=".param .b64 out", buffers=(out,), grid=(3, 1, 1))
    assert {h.kind for h in found} == kinds, [str(h) for h in found]


def test_a_commit_is_one_finding():
    """It arrives in both CTAs, and neither waits: the peer's exit is the error."""
    body = (
        START
        + inits(1)
        + """
    mov.u32 %r4, %cluster_ctarank;
    setp.eq.u32 %p4, %r4, 0;
    and.pred %p4, %p4, %p0;
    mov.b16 %rs0, 3;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    @%p4 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r3+1024], %rs0;
"""
    )
    found = hazards(body, grid=(2, 1, 1), cluster=(2, 1, 1))
    assert [(h.kind, h.severity) for h in found] == [("exited-peer", "error")], [str(h) for h in found]
