"""Mutants of synchronisation, and the verdicts on them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ptx_emulator.check import mutation
from ptx_emulator.check.mutation import DETECTED, NOT_REACHED, SURVIVED

from ..helpers import aligned, kernel, run
from .hazards.patterns import PATTERNS

BODY = """
    mbarrier.init.shared.b64 [%r3+1024], 32;
    mbarrier.init.shared.b64 [%r3+1032], %r4;
    @%p0 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 256;
    mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], %r5;
    @!%p1 bar.sync 1, 64;
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0;
    { fence.proxy.async.shared::cta; }
    add.u32 %r1, %r1, 1;
"""


def changes(body: str) -> list[tuple[str, str]]:
    """(what was done, the changed line) of every mutant."""
    text = kernel("", body)
    found = []
    for mutant in mutation.mutants(text):
        lines, before = mutant.ptx.splitlines(), text.splitlines()
        assert len(lines) == len(before) and sum(a != b for a, b in zip(lines, before, strict=True)) == 1
        found.append((mutant.change, lines[mutant.line - 1].strip()))
    return found


def test_mutants():
    tx = "mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024]"
    assert changes(BODY) == [
        ("count +1", "mbarrier.init.shared.b64 [%r3+1024], 33;"),
        ("count -1", "mbarrier.init.shared.b64 [%r3+1024], 31;"),
        ("count +1", "{ .reg .b32 changed_; add.s32 changed_, %r4, 1; mbarrier.init.shared.b64 [%r3+1032], changed_; }"),
        ("count -1", "{ .reg .b32 changed_; add.s32 changed_, %r4, -1; mbarrier.init.shared.b64 [%r3+1032], changed_; }"),
        ("dropped", ""),
        ("bytes +16", f"@%p0 {tx}, 272;"),
        ("bytes -16", f"@%p0 {tx}, 240;"),
        ("dropped", ""),
        ("bytes +16", f"{{ .reg .b32 changed_; add.s32 changed_, %r5, 16; {tx}, changed_; }}"),
        ("bytes -16", f"{{ .reg .b32 changed_; add.s32 changed_, %r5, -16; {tx}, changed_; }}"),
        ("dropped", ""),
        ("barrier 2", "@!%p1 bar.sync 2, 64;"),
        ("wait passes", "setp.eq.u32 %p15, 0, 0;"),
        ("dropped", "{  }"),
    ]  # fmt: skip


def test_unknown_entry():
    with pytest.raises(ValueError, match="kernel='x'"):
        mutation.mutants(kernel("", BODY), "x")


def hazards(text: str) -> tuple[str, str] | None:
    found = run(text, [], [], checks=True, **PATTERNS["fragments"].options).hazards
    return (found[0].kind, str(found[0])) if found else None


def test_score_of_a_kernel_with_nothing_superfluous():
    """Each fence and wait of the pattern is needed; only the numbers of its barriers do not matter, one by one."""
    text = kernel("", PATTERNS["fragments"].body)
    verdicts = mutation.score(mutation.mutants(text), [hazards], limit=60)
    survivors = [v for v in verdicts if v.outcome == SURVIVED]
    assert {v.mutant.change for v in survivors} == {"barrier 1"}
    assert {v.outcome for v in verdicts} == {DETECTED, SURVIVED} and len(verdicts) > 12
    assert {"race", "tcgen05-fence", "tcgen05-wait", "TmemError"} <= {v.by for v in verdicts}
    assert "| `tcgen05.wait::st.sync.aligned;` | dropped |" in mutation.table(verdicts)


def test_verdicts():
    text = kernel("", "bar.sync 0;\nbar.sync 0;")
    one, other = (m for m in mutation.mutants(text) if m.change == "dropped")

    def wrong(ptx):
        assert np.isnan(1.0), "the result is wrong"

    def slow(ptx):
        time.sleep(60)

    def fine(ptx):
        return None

    def verdict(*runs):
        return mutation.judge(one, runs, limit=1.0)

    assert (verdict(fine, wrong).outcome, verdict(fine, wrong).by) == (DETECTED, "result (run 1)")
    assert (verdict(slow).outcome, verdict(slow).by) == (DETECTED, "time")
    assert verdict(fine, fine).outcome == SURVIVED
    verdicts = mutation.score([one, other], [fine], reached={other.line}, limit=1.0)
    assert [v.outcome for v in verdicts] == [NOT_REACHED, SURVIVED]


def test_a_mutant_that_hangs_is_a_deadlock():
    body = "mov.u32 %r3, smem;\nmbarrier.init.shared.b64 [%r3], 1;\nmbarrier.arrive.shared.b64 %rd0, [%r3];\n"
    body += "W:\nmbarrier.try_wait.parity.shared.b64 %p0, [%r3], 0;\n@!%p0 bra W;"
    (dropped,) = [m for m in mutation.mutants(kernel("", body)) if m.change == "dropped"]
    verdict = mutation.judge(dropped, [lambda text: run(text, [], [aligned(16)], block=(1, 1, 1)) and None], limit=60)
    assert (verdict.outcome, verdict.by) == (DETECTED, "Deadlock")
