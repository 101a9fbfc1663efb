"""Names to handlers: longest match, strict modifiers, retried handlers."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Program, registry
from ptx_emulator.errors import Deadlock, UnsupportedInstruction

from .lanes import program, run

calls: list[tuple[str, int]] = []
turns = {"blocked": 0}


@registry.op("test_only.note", modifiers={"x", "y"}, writes=1)
def _note(warp, inst, mask):
    calls.append((inst.opcode, mask))
    warp.write_u32(inst.operands[0], warp.read_u32(inst.operands[1]) * 2, mask)


@registry.op("test_only.note.longer", modifiers=set(), writes=0)
def _longer(warp, inst, mask):
    calls.append(("longer", mask))


@registry.op("test_only.wait", modifiers=set(), sync="aligned", writes=0)
def _wait(warp, inst, mask):
    if not warp.cta.shared[0x400]:
        turns["blocked"] += 1
        return registry.Blocked("no one has stored yet")
    calls.append(("wait", mask))
    return None


@registry.op("test_only.never", modifiers=set(), writes=0)
def _never(warp, inst, mask):
    return registry.Blocked("the end of time")


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def test_handlers_get_their_lanes_and_write_registers():
    y = np.zeros(32, np.uint32)
    run(
        program(
            """setp.lt.u32 %p1, %thread, 4; mov.u32 %r1, 7; @%p1 test_only.note.x %r1, %thread;
        test_only.note.longer %r1; mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1], %r1;""",
            1,
        ),
        [y],
    )
    assert calls == [("test_only.note.x", 0xF), ("longer", 0xFFFFFFFF)]
    assert y.tolist() == [0, 2, 4, 6] + [7] * 28


def test_unknown_modifiers_are_refused_when_decoding():
    with pytest.raises(UnsupportedInstruction, match=r"\.z of test_only\.note .*known: \.x, \.y"):
        Program.parse(program("test_only.note.z %r1, %r2;", 0)).kernel()


def test_a_blocked_handler_is_called_again_when_something_changed():
    turns["blocked"] = 0
    run(
        program(
            """.shared .align 4 .b32 flag; setp.lt.u32 %p1, %thread, 32; @%p1 st.shared.u32 [flag], 0;
        @%p1 test_only.wait; @%p1 exit; mov.u32 %r1, 0;
        DELAY: add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 1000; @%p2 bra DELAY; st.shared.u32 [flag], 1;""",
            0,
        ),
        [],
        block=(64,),
    )
    assert calls == [("wait", 0xFFFFFFFF)] and turns["blocked"] >= 1


def test_a_handler_blocked_for_ever_is_a_deadlock_with_its_reason():
    with pytest.raises(Deadlock, match="the end of time"):
        run(program("test_only.never;", 0), [])


def test_names_are_registered_once():
    with pytest.raises(ValueError, match="twice"):
        registry.op("test_only.note")(lambda *a: None)
    with pytest.raises(ValueError, match="twice"):
        registry.lower("test_only.note")(lambda *a: None)
