"""Barriers: mbarrier ping-pong and self arrival, named barriers, __syncthreads, cluster barriers, tcgen05 commit; fences."""

from __future__ import annotations

from bench.micro.base import program, wait


def ping_pong(rounds: int) -> tuple[str, dict]:
    """Warp 0 arrives on one mbarrier and waits for another, warp 1 the other way round: a round is two hand-overs."""
    prologue = """
    setp.ne.u32 %p0, %r5, 0;
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    mbarrier.init.shared::cta.b64 [%r1+8], 1;
READY:
    bar.sync 0;
    @%p0 bra LAST;
    setp.ne.u32 %p2, %r2, 0;"""
    first, second = [], []
    for i in range(rounds):
        first.append(f"mbarrier.arrive.shared::cta.b64 _, [%r1];\n{wait('%r1+8', i % 2, f'PONG_{i}')}")
        second.append(f"{wait('%r1', i % 2, f'PING_{i}')}\nmbarrier.arrive.shared::cta.b64 _, [%r1+8];")
    newline = "\n"
    timed = f"@%p2 bra SECOND;\n{newline.join(first)}\nbra OVER;\nSECOND:\n{newline.join(second)}\nOVER:"
    return program(prologue, timed, warps=2, one_thread=True, shared_bytes=1024)


def self_arrival(rounds: int) -> tuple[str, dict]:
    """One thread arrives on an mbarrier and waits for that phase."""
    prologue = """
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra LAST;
    mbarrier.init.shared::cta.b64 [%r1], 1;"""
    lines = [f"mbarrier.arrive.shared::cta.b64 _, [%r1];\n{wait('%r1', i % 2, f'SELF_{i}')}" for i in range(rounds)]
    return program(prologue, "\n".join(lines), one_thread=True, shared_bytes=1024)


def named_barrier(rounds: int, warps: int = 4) -> tuple[str, dict]:
    """`bar.sync 1` of all warps of the CTA, `rounds` times."""
    return program("bar.sync 0;", "\n".join([f"bar.sync 1, {32 * warps};"] * rounds), warps=warps)


def syncthreads(rounds: int, warps: int = 4) -> tuple[str, dict]:
    """`bar.sync 0`, `rounds` times."""
    return program("bar.sync 0;", "\n".join(["bar.sync 0;"] * rounds), warps=warps)


def cluster_barrier(rounds: int, ctas: int = 2, warps: int = 4) -> tuple[str, dict]:
    """`barrier.cluster` arrive and wait, `rounds` times."""
    both = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
    return program(both, "\n".join([both] * rounds), warps=warps, ctas=ctas, cluster=ctas)


def commits(rounds: int) -> tuple[str, dict]:
    """One thread commits (nothing outstanding) to an mbarrier and waits, `rounds` times."""
    prologue = """
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra LAST;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;"""
    commit = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r1];"
    lines = [f"{commit}\n{wait('%r1', i % 2, f'DONE_{i}')}" for i in range(rounds)]
    return program(prologue, "\n".join(lines), one_thread=True, shared_bytes=1024)


def passed(rounds: int) -> tuple[str, dict]:
    """One thread waits `rounds` times for a phase that is over."""
    prologue = f"""
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra LAST;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    mbarrier.arrive.shared::cta.b64 _, [%r1];
    {wait("%r1", 0, "BEFORE")}"""
    lines = [wait("%r1", 0, f"OVER_{i}") for i in range(rounds)]
    return program(prologue, "\n".join(lines), one_thread=True, shared_bytes=1024)


def remote_ping_pong(rounds: int) -> tuple[str, dict]:
    """As ping_pong, between two CTAs: each waits for its own barrier, on which the other arrives."""
    both = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
    prologue = f"""
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
READY:
    {both}
    xor.b32 %r8, %r3, 1;
    mapa.shared::cluster.u32 %r9, %r1, %r8;
    @%p1 bra LAST;
    setp.ne.u32 %p2, %r3, 0;"""
    first, second = [], []
    for i in range(rounds):
        arrive = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r9];"
        first.append(f"{arrive}\n{wait('%r1', i % 2, f'PONG_{i}')}")
        second.append(f"{wait('%r1', i % 2, f'PING_{i}')}\n{arrive}")
    newline = "\n"
    timed = f"@%p2 bra SECOND;\n{newline.join(first)}\nbra OVER;\nSECOND:\n{newline.join(second)}\nOVER:"
    return program(prologue, timed, both, one_thread=True, ctas=2, cluster=2, shared_bytes=1024)


FENCES = {
    "proxy": "fence.proxy.async.shared::cta;",
    "tcgen05": "tcgen05.fence::before_thread_sync;\ntcgen05.fence::after_thread_sync;",
    "gpu": "fence.acq_rel.gpu;",
}


def fences(kind: str, rounds: int) -> tuple[str, dict]:
    """A fence (of tcgen05: the pair), `rounds` times by one warp, with nothing before it."""
    return program("", "\n".join([FENCES[kind]] * rounds))
