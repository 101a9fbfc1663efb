"""clusterlaunchcontrol: a persistent kernel that takes over the clusters that have not started."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import UnsupportedInstruction

from ..lanes import program, run

KERNEL = """.shared .align 16 .b8 answer[16]; .shared .align 8 .b64 bar; setp.eq.u32 %p1, %lane_base, 0;
    @%p1 mbarrier.init.shared.b64 [bar], 1; bar.sync 0;
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r5, 0; mov.u32 %r9, %ctaid.x; mov.u32 %r8, %ctaid.y;
    mad.lo.u32 %r9, %r8, 3, %r9; add.u32 %r9, %r9, 1;
    LOOP: mad.lo.u32 %r3, %r2, 3, %r1; mad.wide.u32 %rd1, %r3, 4, %ptr0;
    @%p1 st.global.u32 [%rd1], %r9;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 16;
    @%p1 clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [answer], [bar];
    W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], %r5; @!%p2 bra W;
    xor.b32 %r5, %r5, 1; ld.shared.b128 %q1, [answer];
    clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p3, %q1;
    @%p3 clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128 {%r1, %r2, _, _}, %q1;
    @%p3 clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %r6, %q1;
    @%p3 sub.u32 %r1, %r6, 0;
    bar.sync 0;
    @%p3 bra LOOP;"""


@pytest.mark.parametrize("order", ["in_order", "late", "random"])
def test_the_first_cta_takes_the_whole_grid(order):
    done = np.zeros((2, 3), np.uint32)
    report = run(program(KERNEL, 1), [done], grid=(3, 2), order=order)
    assert (done == 1).all()
    assert (
        report.by_opcode()["clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128"] == 6
    )


def test_unknown_form():
    with pytest.raises(UnsupportedInstruction):
        run(program("clusterlaunchcontrol.query_cancel.get_third_ctaid.b32.b128 %r1, %q1;", 0), [])
