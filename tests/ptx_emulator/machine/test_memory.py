"""Registered buffers and shared windows as Python handlers see them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ptx_emulator.engine import state as st
from ptx_emulator.errors import Misaligned, OutOfBounds
from ptx_emulator.machine import memory


def test_views_write_through_and_are_checked():
    buffers = memory.Buffers()
    x = np.zeros(16, np.uint32)
    start = buffers.add(x, name="x")
    buffers.view(start + 8, 4, write=True)[:] = [1, 2, 3, 4]
    assert x[2] == 0x04030201
    with pytest.raises(OutOfBounds, match="4 bytes past the end of x"):
        buffers.view(start + 68, 4)
    with pytest.raises(OutOfBounds, match="2 bytes before the end of x"):
        buffers.view(start + 62, 4)
    with pytest.raises(Misaligned, match="multiple of 16"):
        buffers.view(start + 4, 4, align=16)


def test_read_only_buffers():
    buffers = memory.Buffers()
    start = buffers.add(np.zeros(4, np.uint8), writable=False, name="constant")
    assert len(buffers.view(start, 4)) == 4
    with pytest.raises(OutOfBounds, match="read-only"):
        buffers.view(start, 4, write=True)


def test_errors_name_the_instruction():
    inst = SimpleNamespace(line=12, text="ld.global.b32 %r1, [%rd1]")
    with pytest.raises(OutOfBounds, match=r"PTX line 12: ld\.global\.b32.*\n.*no buffer is registered"):
        memory.Buffers().view(64, 4, inst)


def cluster(n: int = 2) -> list[SimpleNamespace]:
    ctas: list[SimpleNamespace] = []
    for rank in range(n):
        ctas.append(SimpleNamespace(rank=rank, cluster=ctas, shared=np.zeros(8192, np.uint8)))
    return ctas


def test_shared_addresses_hold_rank_and_offset():
    ctas = cluster()
    target, offset = memory.shared_target(ctas[0], 1 << 24 | 0x500, 16, align=16)
    assert target is ctas[1] and offset == 0x500
    with pytest.raises(OutOfBounds, match="names CTA 1"):
        memory.shared_target(ctas[0], 1 << 24 | 0x500, 16, cluster=False)
    with pytest.raises(OutOfBounds, match="names CTA 2"):
        memory.shared_target(ctas[0], 2 << 24 | 0x500, 16)
    with pytest.raises(OutOfBounds, match="shared memory is"):
        memory.shared_target(ctas[0], 8190, 4)
    with pytest.raises(OutOfBounds, match="shared memory is"):
        memory.shared_target(ctas[0], st.SHARED_START - 4, 4)
    with pytest.raises(Misaligned):
        memory.shared_target(ctas[0], 0x504, 16, align=16)


def test_the_shared_window():
    assert memory.is_shared_window(st.SHARED_WINDOW | 0x400)
    assert not memory.is_shared_window(0x7FFF00001000)
