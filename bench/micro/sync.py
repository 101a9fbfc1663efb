"""Barriers: mbarrier ping-pong and self arrival, named barriers, __syncthreads, cluster barriers, tcgen05 commit."""

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
