"""Room in the checker's tables: making it loses nothing that cells still name, and forgetting invents nothing."""

from __future__ import annotations

import pytest

from ptx_emulator.check.hazards import shadow as sh
from ptx_emulator.check.hazards.observer import Observer

from ...helpers import kernel, run
from .patterns import PATTERNS
from .test_checker import MISSING, hazards_of


@pytest.fixture
def make_room(monkeypatch):
    """make_room(full): room is made whenever the trace has been read; `full` as P_FULL."""
    calls = []

    def arrange(full: int) -> list:
        original = Observer.drain

        def drain(self):
            original(self)
            self.p[sh.P_FULL] = full
            self.shared.make_room(self)
            calls.append(int(self.p[sh.P_NODES]))

        monkeypatch.setattr(Observer, "drain", drain)
        return calls

    return arrange


@pytest.mark.parametrize("name, edge", MISSING)
def test_sets_of_reads_are_kept(name, edge, make_room):
    expected = hazards_of(name, edge)
    assert make_room(1) is not None
    assert hazards_of(name, edge) == expected


@pytest.mark.parametrize("name", PATTERNS)
def test_forgetting_all_accesses_invents_nothing(name, make_room):
    make_room(2)
    assert hazards_of(name) == []


READERS = """
    mov.u32 %r0, smem;
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p0, %r1, 0;
    @%p0 st.shared.b32 [%r0], 1;
    bar.sync 0;
    mov.u32 %r3, 0;
LOOP:
    ld.shared.b32 %r2, [%r0];
    bar.warp.sync -1;
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p1, %r3, 9;
    @%p1 bra LOOP;
    @%p0 st.shared.b32 [%r0], 2;
"""


def test_nodes_of_sets_that_no_cell_names_are_dropped(make_room):
    """Eight warps read one word, nine times each; what is left is the last read of each."""
    expected = run(kernel("", READERS), [], [], block=(256, 1, 1), checks=True).hazards
    calls = make_room(1)
    found = run(kernel("", READERS), [], [], block=(256, 1, 1), checks=True).hazards
    assert {h.kind for h in found} == {"race"} and found == expected
    assert max(calls) <= 1 + 8
