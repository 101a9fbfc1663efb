"""The Python side of mbarriers and asynchronous work, as operations use them."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from ptx_emulator.engine import state as st
from ptx_emulator.errors import BarrierMisuse, Misaligned
from ptx_emulator.machine import mbarrier
from ptx_emulator.machine.asyncs import AsyncQueue


class Cta:
    """The parts of a CTA that barriers touch, with one barrier of `count` at offset 0x408."""

    def __init__(self, count: int):
        self.rank = 1
        self.grid = SimpleNamespace(observer=None)
        self.header = np.zeros(st.H_SIZE, np.int64)
        self.shared = np.full(4096, 0xFF, np.uint8)
        self.mbarriers = np.zeros((512, st.B_SIZE), np.int64)
        self.mbarriers[0x408 // 8] = [count, count, 0, 0]
        self.shared[0x408:0x410].view(np.uint64)[0] = st.MBARRIER_WORD


def test_phase_completes_when_arrivals_and_bytes_are_in():
    cta = Cta(2)
    mbarrier.expect_tx(cta, 0x408, 96)
    mbarrier.arrive(cta, 0x408, 2)
    assert mbarrier.phase(cta, 0x408) == 0
    mbarrier.complete_tx(cta, 0x408, 64)
    assert mbarrier.phase(cta, 0x408) == 0
    mbarrier.complete_tx(cta, 0x408, 32)
    assert mbarrier.phase(cta, 0x408) == 1
    assert "phase 1, 2 of 2 arrivals pending, tx 0" in mbarrier.describe(cta, 0x408)
    assert cta.header[st.H_PROGRESS] == 4


def test_misuse():
    cta = Cta(1)
    with pytest.raises(Misaligned):
        mbarrier.arrive(cta, 0x40C)
    with pytest.raises(BarrierMisuse, match="not initialised"):
        mbarrier.arrive(cta, 0x410)
    with pytest.raises(BarrierMisuse, match="arrival of 2, but only 1"):
        mbarrier.arrive(cta, 0x408, 2)
    with pytest.raises(BarrierMisuse, match="tx-count 1048576"):
        mbarrier.expect_tx(cta, 0x408, 1 << 20)
    cta.shared[0x409] = 0
    with pytest.raises(BarrierMisuse, match="overwritten"):
        mbarrier.arrive(cta, 0x408)


def submit_all(order: str, seed: int = 0) -> list[str]:
    done: list[str] = []
    queue, cta = AsyncQueue(order, random.Random(seed)), Cta(1)
    for i in range(3):
        for unit in "ab":
            queue.submit(cta, unit, lambda name=f"{unit}{i}": done.append(name), f"{unit}{i}")
    before = len(done)
    pending = len(queue)
    assert before + pending == 6
    queue.drain()
    assert len(queue) == 0 and not queue.run_one()
    return done


def test_in_order_work_is_done_at_once_and_late_work_when_asked():
    assert submit_all("in_order") == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert submit_all("late") == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_random_work_keeps_the_order_within_a_unit():
    seen = set()
    for seed in range(20):
        done = submit_all("random", seed)
        for unit in "ab":
            assert [d for d in done if d[0] == unit] == [f"{unit}{i}" for i in range(3)]
        seen.add(tuple(done))
    assert len(seen) > 3
