"""Compiles one kernel that needs no local memory and two that do; writes the cubin to the path given.

A script of its own because the compiler reads its settings from the environment of the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cutlass
import cutlass.cute as cute
from cutlass.cute.runtime import make_fake_compact_tensor


@cute.kernel
def clean(data: cute.Tensor, count: cutlass.Int32):
    thread, _, _ = cute.arch.thread_idx()
    data[thread] = data[thread] * cutlass.Float32(count)


@cute.kernel
def indexes_array(data: cute.Tensor, count: cutlass.Int32):
    """64 floats indexed by a run-time value cannot live in registers."""
    thread, _, _ = cute.arch.thread_idx()
    values = cute.make_rmem_tensor(64, cutlass.Float32)
    for i in cutlass.range_constexpr(64):
        values[i] = data[i * 128 + thread]
    total = cutlass.Float32(0)
    for i in range(count):
        total += values[(i * 7 + thread) % 64]
    data[thread] = total


@cute.kernel
def spills(data: cute.Tensor, count: cutlass.Int32):
    """96 live floats in a block of 1024 threads, which may use 64 registers each."""
    thread, _, _ = cute.arch.thread_idx()
    values = cute.make_rmem_tensor(96, cutlass.Float32)
    for i in cutlass.range_constexpr(96):
        values[i] = data[i * count + thread]
    cute.arch.sync_threads()
    for i in cutlass.range_constexpr(96):
        data[i * count + thread * 2] = values[95 - i] * values[(i * 5) % 96]


@cute.jit
def host(data: cute.Tensor, count: cutlass.Int32):
    clean(data, count).launch(grid=[1, 1, 1], block=[128, 1, 1])
    indexes_array(data, count).launch(grid=[1, 1, 1], block=[128, 1, 1])
    spills(data, count).launch(grid=[1, 1, 1], block=[1024, 1, 1])


if __name__ == "__main__":
    fake = make_fake_compact_tensor(cutlass.Float32, (cute.sym_int(),), stride_order=(0,))
    compiled = cute.compile(host, fake, cutlass.Int32(1))
    Path(sys.argv[1]).write_bytes(compiled.__cubin__)
