"""Small CuTe DSL kernels for the tests of `emulate`, as a script would have them."""

from __future__ import annotations

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import cpasync

ROWS, COLUMNS = 32, 64
STREAM = cuda.CUstream(0)


@cute.kernel
def add_rows(a: cute.Tensor, b: cute.Tensor, out: cute.Tensor, factor: cutlass.Float32):
    thread, _, _ = cute.arch.thread_idx()
    row, _, _ = cute.arch.block_idx()
    out[row, thread] = a[row, thread] + factor * b[row, thread]


class Add:
    """out = a + factor * b, of rows of `width`."""

    def __init__(self, width: int):
        self.width = width

    @cute.jit
    def __call__(
        self,
        a: cute.Tensor,
        b: cute.Tensor,
        out: cute.Tensor,
        unused: cutlass.Constexpr,
        stream: cuda.CUstream,
        factor: cutlass.Float32 = 1.0,
    ):
        add_rows(a, b, out, factor).launch(grid=[a.shape[0], 1, 1], block=[self.width, 1, 1], stream=stream)


@cute.kernel
def sum_columns(atom: cute.CopyAtom, source: cute.Tensor, out: cute.Tensor):
    """One TMA load of all of `source`, [ROWS, COLUMNS]."""
    thread, _, _ = cute.arch.thread_idx()
    memory = cutlass.memory.SmemAllocator()
    full = memory.allocate_array(cutlass.Int64, 1)
    layout = cute.make_layout((ROWS, COLUMNS), stride=(COLUMNS, 1))
    tile = memory.allocate_tensor(cutlass.Float32, layout, byte_alignment=128)
    if thread == 0:
        cute.arch.mbarrier_init(full, 1)
        cute.arch.mbarrier_init_fence()
    cute.arch.sync_threads()
    pieces = cute.group_modes(tile, 0, 2), cute.group_modes(source, 0, 2)
    to, come = cpasync.tma_partition(atom, 0, cute.make_layout(1), *pieces)
    if thread < 32:
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(full, ROWS * COLUMNS * 4)
        cute.copy(atom, come, to, tma_bar_ptr=full)
    cute.arch.mbarrier_wait(full, 0)
    total = cutlass.Float32(0)
    for row in range(ROWS):
        total += tile[row, thread]
    out[thread] = total


@cute.jit
def column_sums(source: cute.Tensor, out: cute.Tensor):
    layout = cute.make_layout((ROWS, COLUMNS), stride=(COLUMNS, 1))
    atom, coords = cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), source, layout, (ROWS, COLUMNS))
    sum_columns(atom, coords, out).launch(grid=[1, 1, 1], block=[COLUMNS, 1, 1])


@cute.kernel
def reverse_staged(source: cute.Tensor, out: cute.Tensor):
    """Without a barrier between the write of `staged` and the other warp's read."""
    thread, _, _ = cute.arch.thread_idx()
    staged = cutlass.memory.SmemAllocator().allocate_tensor(cutlass.Float32, cute.make_layout(64), byte_alignment=16)
    staged[thread] = source[thread]
    out[thread] = staged[63 - thread]


@cute.jit
def racing_reverse(source: cute.Tensor, out: cute.Tensor):
    reverse_staged(source, out).launch(grid=[1, 1, 1], block=[64, 1, 1])


@cute.kernel
def write_through(target: cute.Pointer):
    thread, _, _ = cute.arch.thread_idx()
    cute.make_tensor(target, cute.make_layout(32))[thread] = cutlass.Float32(7.0)


@cute.jit
def fill(target: cute.Pointer):
    write_through(target).launch(grid=[1, 1, 1], block=[32, 1, 1])
