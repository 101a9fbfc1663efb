"""Grids that depend on one another (griddepcontrol.wait, PTX ISA 9.7.13.13), and clusterlaunchcontrol: taking over
clusters that have not started (9.7.13.19-20).

The 16-byte response is opaque; here it is four words: 1 if a cluster was cancelled, then its first CTA's
(x, y, z).
"""

from __future__ import annotations

import numpy as np

from ..machine import mbarrier, memory
from ..machine.warp import leader, require
from ..registry import Blocked, op


@op("griddepcontrol.wait", modifiers=set(), writes=0)
def wait_for_prerequisites(warp, inst, mask):
    """Wait until the grid that this one depends on has ended and its memory is visible."""
    grid = warp.cta.grid
    if not grid.prerequisite_done:
        return Blocked("griddepcontrol.wait: the grid that this one depends on has not ended")
    if grid.observer is not None:
        grid.observer.waited_for_grid(warp)
    return None


def _prepare_cancel(inst):
    mods = list(inst.mods)
    multicast = "multicast::cluster::all" in mods
    if multicast:
        mods.remove("multicast::cluster::all")
    require(
        inst,
        mods == ["async", "shared::cta", "mbarrier::complete_tx::bytes", "b128"],
        f"{inst.opcode} is not implemented",
    )
    require(inst, len(inst.operands) == 2, "clusterlaunchcontrol.try_cancel: expected [response], [mbarrier]")
    return multicast


@op("clusterlaunchcontrol.try_cancel", prepare=_prepare_cancel, writes=0)
def try_cancel(warp, inst, mask):
    cta, grid = warp.cta, warp.cta.grid
    lane = leader(mask)
    require(inst, mask == 1 << lane, "clusterlaunchcontrol.try_cancel by more than one lane of a warp")
    _, response = memory.shared_target(
        cta, int(warp.address(inst.operands[0])[lane]), 16, inst, align=16, cluster=False
    )
    _, barrier = memory.shared_target(cta, int(warp.address(inst.operands[1])[lane]), 8, inst, align=8, cluster=False)
    targets = cta.cluster if inst.data else [cta]

    def run():
        words = np.zeros(4, np.uint32)
        if grid.waiting:
            first = [i * c for i, c in zip(grid.waiting.popleft(), grid.cluster_dim, strict=True)]
            words[:] = [1, *first]
        for target in targets:
            target.shared[response : response + 16] = words.view(np.uint8)
            mbarrier.complete_tx(target, barrier, 16, inst)

    if grid.observer is not None:
        places = [(target, response, target, barrier) for target in targets]
        run = grid.observer.load(warp, inst, places, 16, run)
    grid.asyncs.submit(cta, object(), run, f"try_cancel, line {inst.line}")


def _words(warp, operand) -> np.ndarray:
    """uint32[4, 32] of a b128 response."""
    low, high = warp.read_b128(operand)
    s = np.uint64(32)
    return np.stack([low, low >> s, high, high >> s]).astype(np.uint32)


@op("clusterlaunchcontrol.query_cancel.is_canceled", modifiers={"pred", "b128"}, writes=1)
def is_canceled(warp, inst, mask):
    warp.write_u32(inst.operands[0], (_words(warp, inst.operands[1])[0] == 1).astype(np.uint32), mask)


def _prepare_axis(inst):
    require(inst, list(inst.mods) == ["b32", "b128"], f"{inst.opcode} is not implemented")
    return 1 + "xyz".index(inst.name[-1])


@op(
    "clusterlaunchcontrol.query_cancel.get_first_ctaid::x",
    "clusterlaunchcontrol.query_cancel.get_first_ctaid::y",
    "clusterlaunchcontrol.query_cancel.get_first_ctaid::z",
    prepare=_prepare_axis,
    writes=1,
)
def get_first_ctaid(warp, inst, mask):
    warp.write_u32(inst.operands[0], _words(warp, inst.operands[1])[inst.data], mask)


def _prepare_vector(inst):
    require(inst, list(inst.mods) == ["v4", "b32", "b128"], f"{inst.opcode} is not implemented")


@op("clusterlaunchcontrol.query_cancel.get_first_ctaid", prepare=_prepare_vector, writes=1)
def get_first_ctaids(warp, inst, mask):
    words = _words(warp, inst.operands[1])
    for element, row in zip(inst.operands[0].elements, [*words[1:], np.zeros(32, np.uint32)], strict=True):
        warp.write_u32(element, row, mask)
