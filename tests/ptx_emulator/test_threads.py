"""Threads that launch the same text, which none has launched before: decoding it happens once, and each gets its result."""

from __future__ import annotations

import struct
import sys
import threading

import numpy as np
import pytest

from ptx_emulator import launch

from .lanes import program

THREADS = 4
# Values that live long, so that a register decoded into another's place shows.
CHAIN = [f"mad.lo.u32 %r{i}, %thread, {2 * i + 1}, {i};" for i in range(1, 9)]
CHAIN += [f"mad.lo.u32 %r1, %r1, 31, %r{i};" for i in range(2, 9)]
STORE = "mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1], %r1;"


def expected() -> np.ndarray:
    thread = np.arange(32, dtype=np.uint32)
    values = [thread * np.uint32(2 * i + 1) + np.uint32(i) for i in range(1, 9)]
    result = values[0]
    for value in values[1:]:
        result = result * np.uint32(31) + value
    return result


@pytest.fixture
def hasty():
    """Threads change after every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_that_decode_and_run_the_same_text(hasty):
    faults = []
    for attempt in range(20):
        text = program(" ".join(CHAIN) + STORE, 1) + f"\n// {attempt}\n"
        together = threading.Barrier(THREADS)

        def work(text=text, together=together):
            try:
                y = np.zeros(32, np.uint32)
                together.wait()
                launch(text, grid=(1,), block=(32,), params=[struct.pack("<Q", y.ctypes.data)], buffers=[y])
                np.testing.assert_array_equal(y, expected())
            except BaseException as error:
                faults.append(repr(error))

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
