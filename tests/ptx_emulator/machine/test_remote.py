"""Stores to and arrivals in other CTAs: late unless something orders them, never later than what does."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.machine.remote import RemoteOperations

from ..helpers import ORDERS, aligned, kernel, pointer, run, wait

SEEDS = range(10)
LATE = ("random", "adversarial")
# Two CTAs of 32 or more threads; %r3 own shared memory, %r6 the other CTA's, %rd1 the CTA's 128 words of output.
START = """
    mov.u32 %r0, %tid.x;
    mov.u32 %r3, smem;
    shr.u32 %r1, %r0, 5;
    mov.u32 %r4, %cluster_ctarank;
    xor.b32 %r5, %r4, 1;
    mapa.shared::cluster.u32 %r6, %r3, %r5;
    setp.eq.u32 %p0, %r4, 0;
    setp.eq.u32 %p1, %r0, 0;
    setp.eq.u32 %p2, %r1, 0;
    ld.param.u64 %rd1, [out];
    mul.wide.u32 %rd2, %r4, 512;
    add.u64 %rd1, %rd1, %rd2;
    shl.b32 %r7, %r0, 2;
    cvt.u64.u32 %rd3, %r7;
    add.u64 %rd1, %rd1, %rd3;
    add.u32 %r8, %r3, %r7;
    add.u32 %r9, %r6, %r7;
    st.shared.b32 [%r8], 0;
    @%p1 mbarrier.init.shared.b64 [%r3+1024], 1;
    @%p1 mbarrier.init.shared.b64 [%r3+1032], 1;
    @%p1 fence.mbarrier_init.release.cluster;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
"""
END = """
DONE:
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
"""
READ = "ld.shared.b32 %r10, [%r8];\nst.global.b32 [%rd1], %r10;\n"
ARRIVE = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, "


def results(body: str, order: str, seed: int, **options) -> np.ndarray:
    """uint32[CTAs, 128]: what the threads wrote."""
    out = aligned(512 * options.get("grid", (2,))[0], np.uint32)
    options = {"grid": (2, 1, 1), "cluster": (2, 1, 1), "block": (32, 1, 1)} | options
    run(kernel(".param .u64 out", START + body + END), [pointer(out)], [out], order=order, seed=seed, **options)
    return out.reshape(-1, 128)


def handed_over(store: str = "st.shared::cluster.b32 [%r9], %r0;", between: str = "bar.warp.sync -1;") -> str:
    """CTA 0 writes each lane's number into CTA 1 and arrives there; CTA 1 waits and reads."""
    return f"""
    @!%p0 bra RECEIVE;
    {store}
    {between}
    @%p1 {ARRIVE}[%r6+1024];
    bra DONE;
RECEIVE:
    {wait("%r3+1024")}
    {READ}
    """


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("store", [
    "st.shared::cluster.b32 [%r9], %r0;",
    "cvt.u64.u32 %rd5, %r9;\ncvta.shared.u64 %rd5, %rd5;\nst.b32 [%rd5], %r0;",
    "cvt.u16.u32 %rs1, %r0;\nst.shared::cluster.b16 [%r9], %rs1;",
    "@%p1 bra FIRST;\nst.shared::cluster.b32 [%r9], %r0;\nFIRST:\n@%p1 st.shared::cluster.b32 [%r9], 0;",
])  # fmt: skip
def test_a_store_is_there_when_the_arrival_after_it_is(order, store):
    for seed in SEEDS:
        assert (results(handed_over(store), order, seed)[1, :32] == np.arange(32)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_wide_stores(order):
    body = """
    shl.b32 %r11, %r0, 4;
    add.u32 %r11, %r11, %r6;
    mov.b32 %r12, 5;
    mov.b64 %rd6, {%r0, %r12};
    """
    body += handed_over("st.shared::cluster.v2.b64 [%r11+2048], {%rd6, %rd6};").replace("[%r8]", "[%r8+2048]")
    for seed in SEEDS:
        assert (results(body, order, seed)[1, :32].reshape(8, 4)[:, [0, 2]] == np.arange(8)[:, None]).all()
        assert (results(body, order, seed)[1, :32].reshape(8, 4)[:, [1, 3]] == 5).all()


def late_anywhere(body: str, expected: int, order: str = "adversarial", **options) -> bool:
    """Whether some seed gives CTA 1 something else than `expected`; the in-order run must not."""
    assert (results(body, "in_order", 0, **options)[1, :32] == expected).all()
    return any((results(body, order, seed, **options)[1, :32] != expected).any() for seed in SEEDS)


def answered(first: str, second: str) -> str:
    """CTA 0 does two things and waits for CTA 1, which waits for one arrival, reads and arrives back."""
    return f"""
    @!%p0 bra RECEIVE;
    {first}
    {second}
    {wait("%r3+1024")}
    bra DONE;
RECEIVE:
    {wait("%r3+1024", label="FIRST")}
    {READ}
    bar.warp.sync -1;
    @%p1 {ARRIVE}[%r6+1024];
    """


@pytest.mark.parametrize("order", LATE)
def test_a_store_after_the_arrival_is_late(order):
    """In order it is done in the turn of the arrival; right is the arrival after it."""
    store, arrival = "st.shared::cluster.b32 [%r9], 7;\nbar.warp.sync -1;", f"@%p1 {ARRIVE}[%r6+1024];"
    assert late_anywhere(answered(arrival, store), 7, order)
    assert not late_anywhere(answered(store, arrival), 7, order)


def test_an_arrival_is_late_and_a_local_one_is_not():
    """A warp arrives remotely, then locally; who waits for either takes a number. Late work is done last."""
    body = f"""
    ld.param.u64 %rd8, [out];
    @!%p0 bra OTHER;
    @!%p2 bra NEIGHBOUR;
    @%p1 {ARRIVE}[%r6+1024];
    @%p1 mbarrier.arrive.shared.b64 %rd7, [%r3+1032];
    bra DONE;
NEIGHBOUR:
    {wait("%r3+1032", label="LOCAL")}
    bra TAKE;
OTHER:
    @!%p2 bra DONE;
    {wait("%r3+1024", label="REMOTE")}
TAKE:
    and.b32 %r12, %r0, 31;
    setp.eq.u32 %p6, %r12, 0;
    @!%p6 bra DONE;
    atom.global.add.u32 %r10, [%rd8+480], 1;
    st.global.b32 [%rd1], %r10;
    """
    out = results(body, "late", 0, block=(64, 1, 1))
    assert out[0, 120] == 2 and (out[0, 32], out[1, 0]) == (0, 1)


@pytest.mark.parametrize("order", LATE)
def test_an_arrival_follows_stores_to_any_cta(order, monkeypatch):
    """CTA 0 stores into CTA 2 and arrives at CTA 1, which then reads CTA 2's memory."""
    body = f"""
    mapa.shared::cluster.u32 %r12, %r8, 2;
    setp.eq.u32 %p5, %r4, 1;
    @%p5 bra RECEIVE;
    @!%p0 bra DONE;
    st.shared::cluster.b32 [%r12+128], 7;
    bar.warp.sync -1;
    @%p1 {ARRIVE}[%r6+1024];
    {wait("%r3+1024")}
    bra DONE;
RECEIVE:
    {wait("%r3+1024", label="FIRST")}
    ld.shared::cluster.b32 %r10, [%r12+128];
    st.global.b32 [%rd1], %r10;
    bar.warp.sync -1;
    @%p1 {ARRIVE}[%r6+1024];
    """
    # CTA 3 exists because CTA 2 names a peer.
    options = {"grid": (4, 1, 1), "cluster": (4, 1, 1)}
    assert not late_anywhere(body, 7, order, **options)
    finish = RemoteOperations._finish
    monkeypatch.setattr(
        RemoteOperations,
        "_finish",
        lambda self, w, rank, *, stores: None if stores else finish(self, w, rank, stores=False),
    )
    assert late_anywhere(body, 7, order, **options)


def counted(times: str) -> str:
    """CTA 0 arrives; CTA 1 looks once, after `times`, whether it has."""
    return f"""
    @!%p0 bra RECEIVE;
    @%p1 {ARRIVE}[%r6+1024];
    {times}
    bra DONE;
RECEIVE:
    {times}
    mbarrier.test_wait.parity.shared.b64 %p5, [%r3+1024], 0;
    selp.b32 %r10, 1, 0, %p5;
    st.global.b32 [%rd1], %r10;
    """


CLUSTER = "barrier.cluster.arrive{}.aligned;\nbarrier.cluster.wait.aligned;"


@pytest.mark.parametrize("order", LATE)
def test_the_cluster_barrier_completes_arrivals(order):
    for seed in SEEDS:
        assert (results(counted(CLUSTER.format("")), order, seed)[1, :32] == 1).all()
    assert late_anywhere(counted(CLUSTER.format(".relaxed")), 1, order)
    fenced = counted("fence.acq_rel.cluster;\n" + CLUSTER.format(".relaxed"))
    for seed in SEEDS:
        assert (results(fenced, order, seed)[1, :32] == 1).all()


@pytest.mark.parametrize("order", LATE)
@pytest.mark.parametrize("arrival", [".release", ".relaxed"])
def test_the_cluster_barrier_completes_stores(order, arrival):
    body = f"@%p0 st.shared::cluster.b32 [%r9], 7;\n{CLUSTER.format(arrival)}\n{READ}"
    if arrival == ".relaxed":
        assert late_anywhere(body, 7, order)
    else:
        for seed in SEEDS:
            assert (results(body, order, seed)[1, :32] == 7).all()


RELEASES = {
    "bar.sync 1, 64;": "bar.sync 1, 64;",
    "@%p1 mbarrier.arrive.shared.b64 %rd7, [%r3+1032];": wait("%r3+1032", label="LOCAL"),
    "bar.arrive 1, 64;": "bar.sync 1, 64;",
    "@%p1 st.release.cluster.shared.b32 [%r3+2048], 1;":
        "SPIN:\nld.acquire.cluster.shared.b32 %r12, [%r3+2048];\nsetp.ne.u32 %p6, %r12, 1;\n@%p6 bra SPIN;",
    "fence.acq_rel.cluster;\n@%p1 st.relaxed.cluster.shared.b32 [%r3+2048], 1;":
        "SPIN:\nld.acquire.cluster.shared.b32 %r12, [%r3+2048];\nsetp.ne.u32 %p6, %r12, 1;\n@%p6 bra SPIN;",
}  # fmt: skip


@pytest.mark.parametrize("order", LATE)
@pytest.mark.parametrize("give, take", RELEASES.items())
def test_another_warp_of_the_cta_hands_a_store_on(order, give, take):
    """Warp 0 stores remotely and synchronises with warp 1, which arrives remotely: the store is visible then."""
    body = f"""
    mov.b32 %r12, 0;
    @%p1 st.shared.b32 [%r3+2048], %r12;
    bar.sync 0;
    @!%p0 bra RECEIVE;
    @!%p2 bra SECOND;
    st.shared::cluster.b32 [%r9], 7;
    bar.warp.sync -1;
    {give}
    bra DONE;
SECOND:
    {take}
    setp.eq.u32 %p7, %r0, 32;
    @%p7 {ARRIVE}[%r6+1024];
    bra DONE;
RECEIVE:
    @!%p2 bra DONE;
    {wait("%r3+1024")}
    {READ}
    """
    options = {"block": (64, 1, 1)}
    for seed in SEEDS:
        assert (results(body, order, seed, **options)[1, :32] == 7).all()


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_reads_back_what_it_stored(order):
    body = """
    @!%p0 bra DONE;
    st.shared::cluster.b32 [%r9], 7;
    ld.shared::cluster.b32 %r10, [%r9];
    st.shared::cluster.b32 [%r9], %r0;
    atom.shared::cluster.add.u32 %r11, [%r9], 1;
    mad.lo.u32 %r10, %r10, 1000, %r11;
    st.global.b32 [%rd1], %r10;
    """
    for seed in SEEDS:
        assert (results(body, order, seed)[0, :32] == 7000 + np.arange(32)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_bytes_announced_remotely(order):
    """An arrive.expect_tx in another CTA, with a copy that may complete before it, and more rows than the log holds."""
    body = f"""
    mov.b32 %r13, 0;
    @!%p0 bra RECEIVE;
AGAIN:
    st.shared::cluster.b32 [%r9], %r13;
    add.u32 %r13, %r13, 1;
    setp.lt.u32 %p6, %r13, 300;
    @%p6 bra AGAIN;
    @!%p1 bra DONE;
    mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r6+1024], 4;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r6+512], 9, [%r6+1024];
    bra DONE;
RECEIVE:
    {wait("%r3+1024")}
    ld.shared.b32 %r11, [%r3+512];
    ld.shared.b32 %r10, [%r8];
    add.u32 %r10, %r10, %r11;
    st.global.b32 [%rd1], %r10;
    """
    for seed in range(3):
        assert (results(body, order, seed)[1, :32] == 308).all()


@pytest.mark.parametrize("order", ORDERS)
def test_checks_follow_operations_that_are_late(order):
    """The same hazards, whenever the operations take effect."""
    out = aligned(1024, np.uint32)
    options = {"grid": (2, 1, 1), "cluster": (2, 1, 1), "block": (32, 1, 1), "order": order, "checks": True}
    for seed in range(3):
        for body, kinds in ((handed_over(), set()), (handed_over(between=""), {"elected-arrive"})):
            ptx = kernel(".param .u64 out", START + body + END)
            report = run(ptx, [pointer(out)], [out], seed=seed, **options)
            assert {h.kind for h in report.hazards} == kinds, [str(h) for h in report.hazards]
