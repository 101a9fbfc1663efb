"""Host operations of block-scaled GEMMs: ordered and tiled layouts, tensor maps over several modes, MMA atoms."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import cute_abi
from ptx_emulator.cute_abi import layouts
from ptx_emulator.cute_abi.host.interpreter import UnsupportedHostOperation
from ptx_emulator.cute_abi.layouts import Layout

# A module whose kernel takes one argument; the host function gets a pointer and two integers.
MODULE = """
module attributes {{gpu.container_module}} {{
  gpu.module @kernels {{
    cuda.kernel @k(%arg0: {type}) attributes {{cute.kernel}} {{
      return
    }}
  }}
  func.func @host(%arg0: !cute.ptr<f8E8M0FNU, gmem, align<32>>, %arg1: i32, %arg2: i32) -> i32 \
attributes {{llvm.emit_c_interface}} {{
    %c0_i32 = arith.constant 0 : i32
    %c1_i32 = arith.constant 1 : i32
    %false = arith.constant false
    %c0_i64 = arith.constant 0 : i64
    {body}
    %s = cuda.cast %c0_i64 : i64 -> !cuda.stream
    %9 = cuda.launch_cfg.create<max_attrs = 2 : i32> (blockDim = (%c1_i32, %c1_i32, %c1_i32), \
dynamicSmemBytes = %c0_i64, gridDim = (%c1_i32, %c1_i32, %c1_i32), stream = %s) : i32 -> !cuda.launch_cfg<max_attrs = 2>
    %r = cuda.launch_ex @kernels::@k<%9> (%it) : !cuda.launch_cfg<max_attrs = 2>, ({type}) -> !cuda.result
    return %c0_i32 : i32
  }}
}}
"""
BLOCK = "((32,4),(32,4)):((16,4),(0,1))"  # scale factors: 128 rows of four
TILED = "(((32,4),?),((32,4),?),(1,?)):(((16,4),?{div=512}),((0,1),512),(0,?{div=512}))"
SCALES = f"""
    %b = cute.make_layout() : !cute.layout<"{BLOCK}">
    %o = cute.make_int_tuple() : () -> !cute.int_tuple<"(2,1,3)">
    %n = cute.make_shape(%arg1, %arg2, %c1_i32) : (i32, i32, i32) -> !cute.shape<"(?,?,?)">
    %t = cute.tile_to_shape(%b, %n, %o) : (!cute.layout<"{BLOCK}">, !cute.shape<"(?,?,?)">, !cute.int_tuple<"(2,1,3)">) \
-> !cute.layout<"{TILED}">
"""
TMA = (
    "!cute_nvgpu.atom.non_exec_tiled_tma_load<sm_90, f8E8M0FNU, copy_bits = 4096, tma_gbasis = "
    '<"((2,4,32),1,1,1):((1@1@0@1,1@1@0@0,1@0@0@0),1@1@0,1@1@1,1@1@2)">, tma_format = U16>'
)


def plan(type_: str, body: str, rows: int = 0, columns: int = 0, address: int = 0):
    (launch,) = cute_abi.plan(MODULE.format(type=type_, body=body), [address, rows, columns])
    return launch.values[0]


@pytest.mark.parametrize("rows,columns", [(128, 128), (300, 128), (128, 513), (1000, 1000)])
def test_tiles_cover_a_shape_in_the_given_order(rows, columns):
    """Compared with a loop: the block of 128 rows and 128 / 32 factors repeats along columns first."""
    found = plan(f'!cute.layout<"{TILED}">', SCALES + "%it = builtin.unrealized_conversion_cast %t : "
                 f'!cute.layout<"{TILED}"> to !cute.layout<"{TILED}">', rows, columns)  # fmt: skip
    blocks = -(-columns // 128)
    rng = np.random.default_rng(0)
    for row, column in zip(rng.integers(0, rows, 20), rng.integers(0, columns, 20), strict=True):
        block = (row // 128) * blocks + column // 128
        expected = block * 512 + row % 32 * 16 + row % 128 // 32 * 4 + column % 128 // 32
        assert layouts.crd2idx((int(row), int(column), 0), found) == expected


def test_ordered_layouts():
    assert layouts.ordered_layout((3, 5, 7), (1, 0, 2)) == Layout((3, 5, 7), (5, 1, 15))
    assert layouts.ordered_layout((3, 5, 7), (2, 1, 0)) == Layout((3, 5, 7), (35, 7, 1))
    with pytest.raises(layouts.NotComputable, match="ordered layout"):
        layouts.ordered_layout(((3, 1), 5), (1, 0))


def scale_tensor_map(change=lambda text: text):
    coords = (
        '!cute.coord_tensor<"(0,0,0,0)", "(((32,4),?),((32,4),?),(1,?)):(((8@0,2@0),1@1),((0,1/2@0),1@2),(0,1@3))">'
    )
    memref = f'!cute.memref<f8E8M0FNU, gmem, align<32>, "{TILED}">'
    body = (
        SCALES
        + f"""
    %v = cute.make_view(%arg0, %t) : {memref}
    %l = cute.make_layout() : !cute.layout<"(512):(1)">
    %it, %c = cute_nvgpu.atom.make_non_exec_tiled_tma_load(%v, %l, %l) <{{kind = <sm_90> num_multicast = 1 tma_format = \
#cute_nvgpu.tma_data_format<U16>}}> : ({memref}, !cute.layout<"(512):(1)">, !cute.layout<"(512):(1)">) -> ({TMA}, {coords})
    """
    )
    return plan(change(TMA), change(body), 300, 1024, 4096)


def test_a_tensor_map_over_modes_that_follow_each_other():
    """512 scale factors of a block are 256 elements of 16 bits; blocks along columns and rows more dimensions."""
    tensor = scale_tensor_map()
    assert (tensor.element_type, tensor.dims, tensor.box) == ("u16", (256, 3, 8, 1), (256, 1, 1, 1))
    assert tensor.strides[:2] == (512 * 8, 512)


def test_modes_that_do_not_follow_each_other_are_refused():
    swapped = "((4,2,32),1,1,1):((1@1@0@0,1@1@0@1,1@0@0@0)"
    with pytest.raises((ValueError, UnsupportedHostOperation), match="dimension over modes|stride 4"):
        scale_tensor_map(lambda text: text.replace("((2,4,32),1,1,1):((1@1@0@1,1@1@0@0,1@0@0@0)", swapped))


def test_a_block_scaled_atom_has_two_addresses():
    type_ = "!cute_nvgpu.sm100.mma_bs<128x128x32, num_cta = 1, sf_type = f8E8M0FNU, vec_size = 32>"
    pointer = "!cute.ptr<f8E8M0FNU, tmem>"
    body = f"""
    %p = cute.inttoptr(%arg1) : i32 to {pointer}
    %it = cute.make_atom(%false, %false, %false, %p, %p) : (i1, i1, i1, {pointer}, {pointer}) -> {type_}
    """
    atom = plan(type_, body, rows=0x1234)
    assert atom.flags == (False, False, False) and atom.words == (0x1234, 0x1234)
    packed = cute_abi.params.pack_value(cute_abi.types.parse_type(type_, {}), atom, "mma")
    assert packed.data == bytes(4) + (0x1234).to_bytes(4, "little") * 2 and packed.align == 4
