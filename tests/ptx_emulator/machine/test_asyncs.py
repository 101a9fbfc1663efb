"""The order policies of asynchronous work."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from ptx_emulator.engine import state as st
from ptx_emulator.machine.asyncs import ORDERS, AsyncQueue


def history(order: str, seed: int, units: int = 4, idle: bool = False) -> list[tuple]:
    """What is done, in order, when `units` units get two operations of three steps each, with a step now and then."""
    queue, done = AsyncQueue(order, random.Random(seed)), []
    cta = SimpleNamespace(rank=0, header=np.zeros(st.H_SIZE, np.int64))
    for operation in range(2):
        for unit in range(units):
            steps = [lambda u=unit, o=operation, s=s: done.append((u, o, s)) for s in range(3)]
            queue.submit(cta, unit, steps, f"unit {unit}")
            done.append(("issued", unit, operation))
            queue.run_one(idle=idle)
    queue.drain()
    assert len(queue) == 0
    return done


@pytest.mark.parametrize("order", ORDERS)
def test_units_are_fifo_and_everything_is_done(order):
    for seed in range(20):
        done = [entry for entry in history(order, seed) if entry[0] != "issued"]
        assert sorted(done) == [(u, o, s) for u in range(4) for o in range(2) for s in range(3)]
        for unit in range(4):
            mine = [entry for entry in done if entry[0] == unit]
            assert mine == sorted(mine)


@pytest.mark.parametrize("order", ORDERS)
def test_replay(order):
    assert history(order, 5) == history(order, 5)
    if order in ("random", "adversarial"):
        assert len({tuple(history(order, seed)) for seed in range(10)}) == 10


def test_adversarial_work_is_early_or_late_and_its_steps_apart():
    """Over some seeds: an operation begun when issued, one not before the end, one with others between its steps."""
    early = late = apart = False
    for seed in range(30):
        done = history("adversarial", seed)
        last_issue = max(i for i, entry in enumerate(done) if entry[0] == "issued")
        for unit in range(4):
            issued, first = done.index(("issued", unit, 0)), done.index((unit, 0, 0))
            early |= first < issued
            late |= first > last_issue
            apart |= any(entry[0] not in (unit, "issued") for entry in done[first : done.index((unit, 0, 2))])
    assert early and late and apart


def test_late_units_only_move_when_nothing_else_can():
    for seed in range(30):
        queue, done = AsyncQueue("adversarial", random.Random(seed)), []
        cta = SimpleNamespace(rank=0, header=np.zeros(st.H_SIZE, np.int64))
        queue.submit(cta, "unit", [lambda: done.append(1)], "")
        before = len(done)
        moved = queue.run_one()
        assert len(done) == before + moved
        assert queue.run_one(idle=True) == (not done or not moved and not before)
