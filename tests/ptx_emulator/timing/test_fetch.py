"""Code is fetched line by line: the first to come waits, whoever follows finds it; jumps pay the latency."""

import numpy as np
import pytest

from bench.micro.base import program
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, time_launch
from ptx_emulator.timing.costs import code_lines, cost_table

CONSTANTS = Constants.of()
LINES = 40  # of straight-line code
WORK = "\n".join(f"lop3.b32 %r{100 + i % 8}, %r{100 + i % 8}, %r0, %r1, 0x6A;" for i in range(8 * LINES))


def waits_for_code(timed: str, constants: Constants = CONSTANTS, warps: int = 1, code_bytes: int | None = None):
    ptx, options = program("", timed, warps=warps)
    launched = prepare_launch(ptx, "k", **options)
    cluster = time_launch(launched, constants, clusters=[0], code_bytes=code_bytes).clusters[0]
    return {warp: cycles for (warp, kind), cycles in cluster.blocked.items() if kind == "code"}


def test_straight_lines_come_at_the_rate_of_lines_and_scale_with_the_assembled_size():
    """Eight instructions take 8 cycles of the 24.6 that a line takes: the rest is waited for. Half the bytes, half the
    lines: 12.3 cycles for what takes 8."""
    whole = waits_for_code(WORK)[0]
    assert whole == pytest.approx(CONSTANTS["code_latency"] + LINES * (24.6 - 8), rel=0.05)
    ptx, options = program("", WORK)
    kernel = prepare_launch(ptx, "k", **options).kernel
    lines = code_lines(cost_table(kernel, CONSTANTS.__getitem__), None)
    assert lines[0] == 1 and np.all(np.diff(lines) >= 0) and LINES <= lines[-1] <= LINES + 5
    code_bytes = int(lines[-1]) * 64
    assert code_lines(cost_table(kernel, CONSTANTS.__getitem__), code_bytes)[-1] == pytest.approx(lines[-1] / 2, abs=1)
    half = waits_for_code(WORK, code_bytes=code_bytes)[0]
    assert half == pytest.approx(CONSTANTS["code_latency"] + LINES * (12.3 - 8), rel=0.2)


def test_a_loop_waits_in_its_first_pass_only():
    loop = f"mov.b32 %r10, 0;\nAGAIN:\n{WORK}\nadd.u32 %r10, %r10, 1;\nsetp.ne.u32 %p1, %r10, PASSES;\n@%p1 bra AGAIN;"
    once, often = (waits_for_code(loop.replace("PASSES", str(n)))[0] for n in (1, 9))
    assert often == pytest.approx(once, abs=CONSTANTS["code_latency"])
    smaller = CONSTANTS.replace(code_cache=2048)  # a cache of half the loop
    assert waits_for_code(loop.replace("PASSES", "9"), smaller)[0] > 5 * once


def test_warps_find_the_code_that_another_has_brought():
    """All come at once: the waits of one are the waits of all. The second to come waits for nothing."""
    alone, four = waits_for_code(WORK), waits_for_code(WORK, warps=4)
    assert max(four.values()) <= 1.2 * alone[0]
    later = f"setp.eq.u32 %p1, %r2, 0;\n@%p1 bra GO;\nbar.sync 0;\nGO:\n{WORK}\nsetp.ne.u32 %p1, %r2, 0;\n@%p1 bra ON;\nbar.sync 0;\nON:"
    waits = waits_for_code(later, warps=2)
    assert waits[1] < 0.4 * waits[0]


def test_a_jump_pays_the_latency_and_nothing_follows_it_without_lines_ahead():
    """Four lines are fetched ahead: a jump over ten finds none of them. Without any ahead, every line pays."""
    over = f"setp.eq.u32 %p1, %r1, 0xFFFFFFFF;\n@!%p1 bra FAR;\n{WORK}\nFAR:"
    there = over.replace("@!%p1 bra FAR;", "")
    jumped = waits_for_code(over)[0]
    assert 2 * CONSTANTS["code_latency"] <= jumped < waits_for_code(there)[0]
    every = waits_for_code(WORK, CONSTANTS.replace(code_ahead=0.5))[0]
    assert every == pytest.approx(LINES * CONSTANTS["code_latency"], rel=0.15)
