"""Who polls mbarriers waits too: for what comes after its first test that failed."""

import pytest

from bench.micro.base import program, wait
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, time_launch

NEVER, LATE, EARLY = 0, 8, 16  # offsets of the mbarriers
FIRST = 1024  # dynamic shared memory begins behind what belongs to the system
WARM = Constants.of(code_latency=1, code_line=1)  # fetching the chain is not the subject
CHAIN = 400  # dependent multiplications before warp 0 arrives at LATE


def test_wait(offset: int, predicate: str) -> str:
    return f"mbarrier.test_wait.parity.shared::cta.b64 {predicate}, [%r1+{offset}], 0;"


test_wait.__test__ = False


def poller(between: str = "") -> tuple[str, dict]:
    """Warp 1 tests NEVER, EARLY (complete before) and LATE in turn until LATE is complete; `between` the tests of NEVER
    and EARLY it does something else."""
    prologue = f"""
    setp.ne.u32 %p0, %r5, 0;
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r1+{NEVER}], 1;
    mbarrier.init.shared::cta.b64 [%r1+{LATE}], 1;
    mbarrier.init.shared::cta.b64 [%r1+{EARLY}], 1;
    mbarrier.init.shared::cta.b64 [%r1+24], 1000;
    mbarrier.arrive.shared::cta.b64 _, [%r1+{EARLY}];
    {wait(f"%r1+{EARLY}", 0, "FIRST")}
READY:
    bar.sync 0;
    @%p0 bra LAST;
    setp.ne.u32 %p2, %r2, 0;"""
    chain = "\n".join(["fma.rn.f32 %f0, %f0, %f0, %f0;"] * CHAIN)
    timed = f"""
    @%p2 bra POLL;
    mov.f32 %f0, 0f3F800000;
    {chain}
    setp.eq.f32 %p3, %f0, 0f00000000;
    @%p3 bra OVER;
    mbarrier.arrive.shared::cta.b64 _, [%r1+{LATE}];
    bra OVER;
POLL:
    {test_wait(NEVER, "%p3")}
    {between}
    {test_wait(EARLY, "%p3")}
    {test_wait(LATE, "%p4")}
    @!%p4 bra POLL;
OVER:"""
    return program(prologue, timed, warps=2, one_thread=True, shared_bytes=1024)


def waits_of(between: str = "") -> dict:
    ptx, options = poller(between)
    launched = prepare_launch(ptx, "k", **options)
    return {key: n for key, n in time_launch(launched, WARM, clusters=[0]).clusters[0].waits.items() if key[0]}


def test_the_barrier_that_lets_the_poller_go_on_gets_the_wait():
    waits = waits_of()
    assert set(waits) == {(1, FIRST + LATE, "arrive")}
    assert waits[1, FIRST + LATE, "arrive"] == pytest.approx(4 * (CHAIN - 96), rel=0.15)  # the window lies between


def test_work_between_failed_tests_is_no_wait():
    """An arrival in every round: only what has passed since the last one is left."""
    waits = waits_of("mbarrier.arrive.shared::cta.b64 _, [%r1+24];")
    assert sum(waits.values()) < 300
