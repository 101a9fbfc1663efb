"""Host functions that encode tensor maps by themselves (`cutlass.experimental`), run from the compiler's own texts."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
import cutlass.experimental.cuda as cuda
import numpy as np
import pytest
import torch
from cutlass.cute.runtime import make_fake_tensor
from cutlass.experimental import primitives as prims

from ptx_emulator import cute_abi
from ptx_emulator.cute_abi.host.interpreter import UnsupportedHostOperation

ROWS, COLUMNS = 16, 32  # of the box: one span of 64 bytes of f16 a row
THREADS = 32


@cute.kernel
def _copy_box(source: cutlass.GridConstant[cuda.TensorMap], out: cutlass.Array, row: cutlass.Int32):
    """out[:] = the box at (row, 0), as it lies in shared memory."""
    tile = cutlass.Array(cutlass.Int32, ROWS * COLUMNS // 2, space=cutlass.AddressSpace.smem, alignment=1024)
    barrier = cutlass.Array(cutlass.Int64, 1, space=cutlass.AddressSpace.smem)
    thread, _, _ = cute.arch.thread_idx()
    if prims.elect_sync():
        prims.mbarrier_init(barrier, 1)
    prims.fence_mbarrier_init()
    prims.barrier_cta_sync(0)
    if prims.elect_sync():
        prims.mbarrier_arrive_expect_tx(barrier, source.global_tx_bytes())
        prims.cp_async_bulk_tensor_shared_cta_global(tile, source.get_ptr(), (cutlass.Int32(0), row), barrier)
    while not prims.mbarrier_try_wait_parity(barrier, 0):
        pass
    for i in cutlass.range(ROWS * COLUMNS // 2 // THREADS):
        out[i * THREADS + thread] = tile[i * THREADS + thread]


@cute.jit
def _host(source: cute.Tensor, out: cutlass.Array, rows: cutlass.Int64, row: cutlass.Int32):
    tensor_map = cuda.create_tensor_map_tiled(
        global_address=source.iterator.toint(),
        dtype=cutlass.Float16,
        global_dims=[COLUMNS, rows],
        global_strides=[source.shape[1] * 2 // 16],
        box_dims=[COLUMNS, ROWS],
        swizzle=cuda.TensorMapSwizzle.s64b,
    )
    _copy_box(tensor_map, out, row).launch(grid=(1, 1, 1), block=(THREADS, 1, 1))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dump")
    settings = cutlass.cutlass_dsl.CuTeDSL._get_dsl().envar
    saved = settings.keep_ir_clean, settings.dump_dir
    settings.keep_ir_clean, settings.dump_dir = True, str(folder)
    try:
        wide = make_fake_tensor(cutlass.Float16, (64, 40), (40, 1), assumed_align=16)
        out = make_fake_tensor(cutlass.Int32, (ROWS * COLUMNS // 2,), (1,), assumed_align=4)
        options = f"--enable-tvm-ffi --keep-ptx --gpu-arch sm_100a --dump-dir {folder}"
        artifacts = cute.compile(_host, wide, out, 64, 0, options=options).artifacts
    finally:
        settings.keep_ir_clean, settings.dump_dir = saved
    return artifacts.MLIR, artifacts.PTX.rstrip("\0")


def source_and_out():
    source = torch.arange(64 * 40, dtype=torch.int32).to(torch.int16).view(torch.float16).view(64, 40).clone()
    assert source.data_ptr() % 16 == 0
    return source, np.full(ROWS * COLUMNS // 2, -1, np.int32)


def in_shared_memory(box: np.ndarray) -> np.ndarray:
    """uint16 [16, 32] as the 64-byte swizzle leaves it: 16-byte chunk c of row r goes to chunk c ^ (r / 2) % 4."""
    chunks = box.reshape(ROWS, 4, 8)
    rows = np.arange(ROWS)[:, None]
    return chunks[rows, np.arange(4)[None, :] ^ rows // 2 % 4].reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("rows,row", [(64, 0), (64, 5), (20, 10)])
def test_a_tensor_map_from_stack_arrays(texts, rows, row):
    """Dimensions, stride, box, swizzle and address get into the map; rows past `rows` are zero."""
    source, out = source_and_out()
    cute_abi.launch(*texts, [source, out, rows, row])
    box = np.zeros((ROWS, COLUMNS), np.uint16)
    inside = source.view(torch.int16).numpy().view(np.uint16)[row : min(row + ROWS, rows), :COLUMNS]
    box[: len(inside)] = inside
    found = out.view(np.uint16).reshape(ROWS, COLUMNS)
    np.testing.assert_array_equal(found, in_shared_memory(box))
    assert (found != box).any()


def test_the_map_is_a_planned_value(texts):
    source, out = source_and_out()
    (launch,) = cute_abi.plan(texts[0], [source, out, 20, 10])
    tensor = launch.values[0]
    assert (tensor.address, tensor.dims, tensor.strides) == (source.data_ptr(), (COLUMNS, 20), (80,))
    assert (tensor.box, tensor.swizzle, tensor.element_type) == ((COLUMNS, ROWS), "64B", "f16")


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("interleave = %c0_i32", "interleave = %c1_i32", "interleave = 1"),
        ("data_type = %c6_i32", "data_type = %c16_i32", "data_type = 16"),
        ("llvm.alloca", "llvm.surprise", "llvm.surprise"),
    ],
)
def test_what_is_not_known_is_named(texts, old, new, message):
    """An unknown operation or field is an error that names it, because the launch needs the map."""
    assert old in texts[0]
    source, out = source_and_out()
    with pytest.raises(UnsupportedHostOperation, match=message):
        cute_abi.plan(texts[0].replace(old, new), [source, out, 20, 10])


def test_a_store_outside_the_stack_array(texts):
    source, out = source_and_out()
    broken = texts[0].replace("%c2_i32 x i64", "%c1_i32 x i64", 1)
    with pytest.raises(ValueError, match="element 1 of 1"):
        cute_abi.plan(broken, [source, out, 20, 10])


def test_dynamic_shapes_are_plain_numbers():
    """An integer tuple argument takes its leaves as numbers; a number that its type cannot hold is refused."""
    ir = texts_with_tuple("(?,?{i64 div=8})")
    (launch,) = cute_abi.plan(ir, [3, 16])
    assert launch.grid == (3, 16, 1)
    with pytest.raises(ValueError, match="multiple of 8"):
        cute_abi.plan(ir, [3, 17])
    with pytest.raises(TypeError, match="takes 2 arguments"):
        cute_abi.plan(ir, [3])


def texts_with_tuple(tree: str) -> str:
    return f"""
module attributes {{gpu.container_module}} {{
  gpu.module @kernels {{
    cuda.kernel @k() attributes {{cute.kernel}} {{
      return
    }}
  }}
  func.func @host(%arg0: !cute.int_tuple<"{tree}">) -> i32 attributes {{llvm.emit_c_interface}} {{
    %c0_i32 = arith.constant 0 : i32
    %c1_i32 = arith.constant 1 : i32
    %c0_i64 = arith.constant 0 : i64
    %0:2 = cute.get_leaves(%arg0) : !cute.int_tuple<"{tree}">
    %s = cuda.cast %c0_i64 : i64 -> !cuda.stream
    %1 = cuda.launch_cfg.create<max_attrs = 2 : i32> (blockDim = (%c1_i32, %c1_i32, %c1_i32), \
dynamicSmemBytes = %c0_i64, gridDim = (%0#0, %0#1, %c1_i32), stream = %s) : i32 -> !cuda.launch_cfg<max_attrs = 2>
    %2 = cuda.launch_ex @kernels::@k<%1> () : !cuda.launch_cfg<max_attrs = 2>, () -> !cuda.result
    return %c0_i32 : i32
  }}
}}
"""
