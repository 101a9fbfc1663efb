"""`ptx_emulator.cute_abi`: reading IR, interpreting host functions, packing parameters.

Answers come from Python integer arithmetic, numpy offsets, and the `.param` list and load offsets of the PTX that the
compiler wrote for the same module.
"""

from __future__ import annotations

import itertools
import re
import struct
from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
import numpy as np
import pytest
import torch
from cutlass.cute.nvgpu import OperandMajorMode, cpasync
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor
from cutlass.cutlass_dsl import CuTeDSL
from cutlass.utils import blackwell_helpers
from hypothesis import given
from hypothesis import strategies as st

from ptx_emulator import cute_abi
from ptx_emulator.cute_abi import layouts, params, text
from ptx_emulator.cute_abi.host import launch as host_launch
from ptx_emulator.cute_abi.layouts import Basis, Dyn, Layout
from ptx_emulator.cute_abi.types import MmaType, TmaAtomType, parse_type
from ptx_emulator.cute_abi.values import FastDivmod, buffers_of
from ptx_emulator.units.tma.tensormap import TensorMap


@cute.kernel
def _kernel(
    mma_free_atom: cute.CopyAtom,
    coords: cute.Tensor,
    cache_atom: cute.CopyAtom,
    cache_coords: cute.Tensor,
    mixed: cute.Tensor,
    tail: cute.Tensor,
    out: cute.Tensor,
    flag: cutlass.Boolean,
    small: cutlass.Int8,
    half: cutlass.Float16,
    scale: cutlass.Float32,
    large: cutlass.Int64,
    pointer: cute.Pointer,
    pair: cute.Shape,
    layout: cute.Layout,
    copy: cute.TiledCopy,
    divisor: cute.FastDivmodDivisorV2,
):
    tid, _, _ = cute.arch.thread_idx()
    storage = cutlass.memory.SmemAllocator()
    staged = storage.allocate_tensor(cutlass.Float32, cute.make_layout(40), byte_alignment=16)
    storage.allocate(72, byte_alignment=128)
    staged[tid % 40] = scale
    cute.arch.sync_threads()
    sizes = cute.size(coords) + cute.size(cache_coords) + cute.size(mixed) + cute.size(tail)
    quotient, rest = divmod(tid + 1000, divisor)
    if flag:
        out[tid, 0] = sizes + pair[0] - pair[1] + layout(1) + quotient * 7 + rest + small
        out[tid, 1] = cutlass.Int32(large) + cutlass.Int32(staged[0] + half.to(cutlass.Float32))
    if tid == 0:
        cute.make_tensor(pointer, cute.make_layout(1))[0] = mixed[1, 2, 3]


@cute.jit
def _host(
    query: cute.Tensor,
    cache: cute.Tensor,
    mixed: cute.Tensor,
    out: cute.Tensor,
    count: cutlass.Int32,
    large: cutlass.Int64,
    flag: cutlass.Boolean,
    scale: cutlass.Float32,
    half: cutlass.Float16,
    small: cutlass.Int8,
    stream,
):
    element = query.element_type
    rows = query.shape[0] * query.shape[1]
    flat = cute.make_tensor(query.iterator, cute.make_layout((rows, query.shape[2]), stride=(query.stride[1], 1)))
    tile = cute.select(blackwell_helpers.make_smem_layout(OperandMajorMode.K, (64, 64), element, 1), mode=[0, 1])
    atom, coords = cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), flat, tile, (64, 64))
    pages = cute.make_tensor(cache.iterator, cute.select(cache.layout, mode=[1, 2, 0]))
    page_tile = cute.select(blackwell_helpers.make_smem_layout(OperandMajorMode.K, (32, 32), element, 1), mode=[0, 1])
    cache_atom, cache_coords = cpasync.make_tiled_tma_atom(
        cpasync.CopyBulkTensorTileG2SOp(), pages, page_tile, (32, 32)
    )
    copy = cute.make_tiled_copy_tv(
        cute.make_copy_atom(cute.nvgpu.CopyUniversalOp(), element, num_bits_per_copy=128),
        cute.make_layout((8, 4), stride=(4, 1)),
        cute.make_layout((1, 8)),
    )
    clipped = cutlass.min(count, 7)
    chosen = cutlass.max(clipped, query.shape[0]) % 5
    if count > 3:
        chosen = chosen + 1
    else:
        chosen = chosen * 2
    total = count
    for step in cutlass.range(count):
        total = total + step
    while total > 100:
        total = total // 2
    blocks = cute.ceil_div(rows, 64)
    tail = cute.domain_offset((1, 2), out)
    _kernel(
        atom,
        coords,
        cache_atom,
        cache_coords,
        mixed,
        tail,
        out,
        flag,
        small,
        half,
        scale * 1.5,
        large,
        mixed.iterator,
        (chosen, total),
        cute.make_layout((blocks, clipped), stride=(clipped, 1)),
        copy,
        cute.fast_divmod_create_divisor_v2(blocks + 2),
    ).launch(grid=[blocks, chosen, 2], block=[64, 1, 1], cluster=[1, 1, 1], stream=stream)


def _texts(function, *arguments) -> tuple[str, str]:
    """(IR, PTX) of one compilation; only an environment variable, read at start-up, asks for the IR."""
    settings = CuTeDSL._get_dsl().envar
    saved, settings.keep_ir_clean = settings.keep_ir_clean, True
    try:
        options = "--enable-tvm-ffi --keep-ptx --gpu-arch sm_100a"
        artifacts = cute.compile(function, *arguments, options=options).artifacts
    finally:
        settings.keep_ir_clean = saved
    return artifacts.MLIR, artifacts.PTX.rstrip("\0")


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> SimpleNamespace:
    bf16, n, wide = cutlass.BFloat16, cute.sym_int, cute.sym_int64
    settings = CuTeDSL._get_dsl().envar
    saved, settings.dump_dir = settings.dump_dir, str(tmp_path_factory.mktemp("dump"))
    try:
        ir, ptx = _texts(
            _host,
            make_fake_tensor(bf16, (n(), n(), 576), (wide(divisibility=8), wide(divisibility=8), 1), assumed_align=16),
            make_fake_tensor(bf16, (n(), 32, 576), (wide(divisibility=8), wide(divisibility=8), 1), assumed_align=16),
            make_fake_tensor(bf16, (n(), n(), n()), (n(), wide(), 1), assumed_align=4),
            make_fake_tensor(cutlass.Int32, (n(), n()), (wide(), 1), assumed_align=4),
            cutlass.Int32(1),
            cutlass.Int64(1),
            cutlass.Boolean(True),
            cutlass.Float32(1),
            cutlass.Float16(1),
            cutlass.Int8(1),
            make_fake_stream(use_tvm_ffi_env_stream=True),
        )
    finally:
        settings.dump_dir = saved
    return SimpleNamespace(ir=ir, ptx=ptx)


def _arguments(**changes) -> list:
    values = {
        "query": torch.zeros(6, 30, 600, dtype=torch.bfloat16)[..., :576],
        "cache": torch.zeros(10, 32, 576, dtype=torch.bfloat16),
        "mixed": torch.arange(5 * 6 * 16, dtype=torch.float32).to(torch.bfloat16).view(5, 6, 16),
        "out": torch.full((70, 9), -1, dtype=torch.int32),
        "count": 5,
        "large": -3,
        "flag": True,
        "scale": 2.0,
        "half": 0.25,
        "small": -3,
    }
    assert set(changes) <= set(values)
    return list((values | changes).values())


def test_kernel_spec(module):
    (spec,) = cute_abi.parse_ir(module.ir).values()
    assert spec.block == (64, 1, 1) and spec.cluster == (1, 1, 1) and spec.grid is None
    # 40 floats, then 72 bytes from the next multiple of 128.
    assert spec.shared_bytes == 256 + 72
    assert len(spec.args) == 19
    assert [arg.index for arg in spec.args if not arg.is_passed] == [16], "only the tiled copy has no state"
    atom = spec.args[2].type
    assert atom == TmaAtomType(box=(32, 32, 1), modes=(((1,),), ((0,),), ((2,),)), format="BF16_RN")


def test_plan_computes_what_the_host_function_does(module):
    arguments = _arguments()
    query, cache, mixed, out = arguments[:4]
    (planned,) = cute_abi.plan(module.ir, arguments)
    rows = 6 * 30
    chosen = max(min(5, 7), 6) % 5 + 1
    total = 5 + sum(range(5))
    assert planned.grid == (-(-rows // 64), chosen, 2)
    assert planned.block == (64, 1, 1) and planned.cluster == (1, 1, 1)
    assert planned.shared_bytes == planned.spec.shared_bytes
    assert planned.values[0] == TensorMap(
        address=query.data_ptr(), element_type="bf16", dims=(576, rows), strides=(1200,), box=(64, 64),
        swizzle="128B",
    )  # fmt: skip
    assert planned.values[2] == TensorMap(
        address=cache.data_ptr(), element_type="bf16", dims=(576, 32, 10), strides=(1152, 32 * 1152),
        box=(32, 32, 1), swizzle="64B",
    )  # fmt: skip
    assert planned.values[5].pointer.address == out[1:, 2:].data_ptr()
    assert planned.values[10] == 3.0
    assert planned.values[13:15] == (chosen, total)
    assert planned.values[15] == Layout((3, 5), (5, 1))
    assert planned.values[17:] == (FastDivmod(5), 5)


@pytest.mark.parametrize("order", ["in_order", "late", "random"])
def test_launch_passes_every_argument(module, order):
    """The kernel computes with all that it is passed, so a misplaced byte shows in what it stores."""
    arguments = _arguments()
    mixed, out = arguments[2:4]
    (report,) = cute_abi.launch(module.ir, module.ptx, arguments, order=order, seed=1)
    assert report.ctas == 3 * 2 * 2
    sizes = 6 * 30 * 576 + 32 * 576 * 10 + 5 * 6 * 16 + 70 * 9
    blocks, clipped, chosen, total = 3, 5, 2, 15
    threads = torch.arange(64)
    quotients, rests = (threads + 1000) // (blocks + 2), (threads + 1000) % (blocks + 2)
    assert torch.equal(out[:64, 0].long(), sizes + chosen - total + clipped + 7 * quotients + rests - 3)
    assert torch.equal(out[:64, 1].long(), torch.full((64,), -3 + int(2.0 * 1.5 + 0.25)))
    assert (out[64:] == -1).all() and (out[:, 2:] == -1).all()
    assert mixed[0, 0, 0] == 1 * 96 + 2 * 16 + 3


@pytest.mark.parametrize("count", [-4, 0, 3, 4, 40])
def test_branches_and_loops(module, count):
    (planned,) = cute_abi.plan(module.ir, _arguments(count=count))
    chosen = max(min(count, 7), 6) % 5
    chosen = chosen + 1 if count > 3 else chosen * 2
    total = count + sum(range(count))
    while total > 100:
        total //= 2
    assert planned.values[13:15] == (chosen, total)


def _declared(ptx: str, kernel: str) -> list[tuple[int, int]]:
    """(size, alignment) of each `.param`, read with a different pattern than the package's."""
    header = ptx[ptx.index(f".entry {kernel}") :]
    sizes = {"u8": 1, "u16": 2, "u32": 4, "f32": 4, "u64": 8}
    found = []
    for line in header[: header.index(")")].splitlines()[1:]:
        words = line.split()
        if words[1] == ".align":
            found.append((int(re.search(r"\[(\d+)\]", line).group(1)), int(words[2])))
        else:
            found.append((sizes[words[1][1:]],) * 2)
    return found


def test_packed_parameters_fit_the_ptx(module):
    arguments = _arguments()
    (planned,) = cute_abi.plan(module.ir, arguments)
    packed = cute_abi.pack(planned.spec, planned.values, module.ptx)
    assert [len(data) for data in packed] == [size for size, _ in _declared(module.ptx, planned.spec.name)]
    mixed = arguments[2]
    # (?,?,?):(?,?{i64},1): the shape is one struct, the stride another, each at its own alignment.
    assert packed[4] == struct.pack("<Qiii4xi4xq", mixed.data_ptr(), 5, 6, 16, 96, 16)
    assert packed[3] == struct.pack("<i", 10)
    assert packed[7:11] == [b"\1", b"\xfd", np.float16(0.25).tobytes(), np.float32(3).tobytes()]
    assert packed[11] == struct.pack("<q", -3)


def test_pack_takes_plain_values(module):
    arguments = _arguments()
    (planned,) = cute_abi.plan(module.ir, arguments)
    mixed, out = arguments[2:4]
    plain = dict(enumerate(planned.values)) | {
        1: (180, 576), 3: (32, 576, 10), 4: mixed, 6: out.numpy(), 12: mixed.data_ptr(), 17: 5,
    }  # fmt: skip
    expected = cute_abi.pack(planned.spec, planned.values, module.ptx)
    assert cute_abi.pack(planned.spec, plain, module.ptx) == expected
    with pytest.raises(ValueError, match="19 arguments, got 2 values"):
        cute_abi.pack(planned.spec, [1, 2])
    with pytest.raises(TypeError, match="kernel argument 0 .*expected a TensorMap, got Tensor"):
        cute_abi.pack(planned.spec, plain | {0: mixed})
    with pytest.raises(TypeError, match="kernel argument 10 .*number for f32, got NoneType"):
        cute_abi.pack(planned.spec, plain | {10: None})


def test_parameters_that_do_not_fit_the_ptx_are_refused(module):
    (planned,) = cute_abi.plan(module.ir, _arguments())
    wrong = re.sub(r"(_param_4)\[\d+\]", r"\1[48]", module.ptx)
    with pytest.raises(ValueError, match=r"kernel argument 4 .*memref.*_param_4.*48 bytes"):
        cute_abi.pack(planned.spec, planned.values, wrong)
    with pytest.raises(ValueError, match="no entry"):
        cute_abi.pack(planned.spec, planned.values, module.ptx.replace(".entry kernel", ".entry lernel"))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"query": torch.zeros(6, 30, 576)}, TypeError, "host argument 0: .*bf16.*float32"),
        ({"query": torch.zeros(6, 30, 64, dtype=torch.bfloat16)}, ValueError, "host argument 0, shape.*576.*64"),
        ({"query": torch.zeros(30, 576, dtype=torch.bfloat16)}, ValueError, r"host argument 0, shape"),
        ({"query": torch.zeros(6, 30, 580, dtype=torch.bfloat16)[..., :576]}, ValueError, "multiple of 8"),
        ({"query": torch.zeros(6, 30, 577, dtype=torch.bfloat16)[..., 1:]}, ValueError, "host argument 0.*multiple"),
        ({"query": torch.zeros(576, 30, 6, dtype=torch.bfloat16).permute(2, 1, 0)}, ValueError, "argument 0, stride"),
        ({"query": [1, 2]}, TypeError, "takes 10 arguments"),
        ({"query": None}, TypeError, "takes 10 arguments"),
        ({"cache": 7}, TypeError, "host argument 1: expected a numpy array or a torch CPU tensor, got int"),
        ({"count": 1.5}, TypeError, "host argument 4.*integer"),
        ({"count": 1 << 32}, ValueError, "host argument 4.*does not fit i32"),
        ({"small": 256}, ValueError, "host argument 9.*does not fit i8"),
        ({"scale": "2"}, TypeError, "host argument 7.*number"),
        ({"query": torch.zeros(0, 30, 576, dtype=torch.bfloat16)}, ValueError, "empty|extent|dims"),
    ],
)
def test_wrong_arguments_are_named(module, change, error, message):
    with pytest.raises(error, match=message):
        cute_abi.plan(module.ir, _arguments(**change))


def test_an_extent_beyond_the_compiled_width_is_refused(module):
    # 2^32 times the same row.
    endless = torch.zeros(1, 9, dtype=torch.int32).expand(1 << 32, 9)
    with pytest.raises(ValueError, match="host argument 3, shape: 4294967296 does not fit the i32"):
        cute_abi.plan(module.ir, _arguments(out=endless))


def test_host_arithmetic_that_overflows_is_refused(module):
    tall = torch.zeros(1, 1, 576, dtype=torch.bfloat16).expand(1 << 16, 1 << 16, 576)
    with pytest.raises(ValueError, match="tuple_mul.*4294967296 does not fit the i32"):
        cute_abi.plan(module.ir, _arguments(query=tall))


def test_an_unknown_operation_matters_only_where_a_launch_needs_it(module):
    assert module.ir.count("cute.ceil_div") == 1
    with pytest.raises(cute_abi.UnsupportedHostOperation, match="does not know cute.frobnicate"):
        cute_abi.plan(module.ir.replace("cute.ceil_div", "cute.frobnicate"), _arguments())
    # The tiled copy has no state, so it does not matter how it is made.
    assert "cute.make_tiled_copy" in module.ir
    changed = module.ir.replace("cute.make_tiled_copy", "cute.frobnicate")
    arguments = _arguments()
    assert cute_abi.plan(changed, arguments)[0].values == cute_abi.plan(module.ir, arguments)[0].values


def test_printed_types_check_the_interpreter(module):
    """A result that disagrees with what the compiler printed is an error, not a wrong launch."""
    changed = module.ir.replace("select<[1, 2, 0]>", "select<[0, 2, 1]>")
    assert changed != module.ir
    with pytest.raises(ValueError, match="compiled for 32, got 10"):
        cute_abi.plan(changed, _arguments())


def test_ir_without_a_host_function_is_refused():
    with pytest.raises(ValueError, match="no host function"):
        cute_abi.parse_ir("module {\n}\n")


def test_read_dump(tmp_path):
    (tmp_path / "cute_dsl_x_clean.mlir").write_text("ir")
    with pytest.raises(ValueError, match=r"expected one \*\.ptx, found 0"):
        cute_abi.read_dump(tmp_path)
    (tmp_path / "x.sm_100a.ptx").write_text("ptx")
    assert cute_abi.read_dump(tmp_path) == ("ir", "ptx")


# --- tuples and layouts ---


@pytest.mark.parametrize(
    "printed",
    [
        "?",
        "(?,?{div=16},(1,?{i64 div=8}))",
        "((2,(1,1)),((64,16),(1,4))):((64@0,(0,0)),((1@0,1@1),(0,16@1)))",
        "(_,_,0)",
    ],
)
def test_printed_trees_round_trip(printed):
    parse = layouts.parse_layout if ":" in printed else layouts.parse_tree
    assert layouts.show(parse(printed)) == printed


def test_printed_leaves():
    assert layouts.parse_tree("(?{i64 div=8},1@1@0,?@2)") == (Dyn(64, 8), Basis(1, (0, 1)), Basis(Dyn(), (2,)))
    assert layouts.parse_tile("[128:1;_]") == (Layout(128, 1), None)
    for bad in ("(1,2", "(1,2))", "?{i64 odd}", "1:2"):
        with pytest.raises(ValueError, match="CuTe tuple"):
            layouts.parse_tree(bad)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_crd2idx_is_colexicographic(shape, data):
    strides = tuple(data.draw(st.integers(0, 50)) for _ in shape)
    layout = Layout((tuple(shape), 3), (strides, 100))
    # numpy's Fortran order is CuTe's order of an integer coordinate of a nested mode.
    offsets = np.zeros(shape, int)
    for coord in itertools.product(*(range(n) for n in shape)):
        offsets[coord] = sum(c * s for c, s in zip(coord, strides, strict=True))
    flat = offsets.ravel(order="F")
    for index, offset in enumerate(flat):
        assert layouts.crd2idx((index, 2), layout) == offset + 200
    assert layouts.cosize(layout) == offsets.max() + 200 + 1


def test_tiles():
    layout = Layout((100, 64), (64, 1))
    inner, rest = layouts.tile_modes(layout, layouts.parse_tile("[32:1;_]"))
    assert inner == [Layout(32, 64), None]
    assert rest == [Layout(4, 2048), Layout(64, 1)]
    with pytest.raises(layouts.NotComputable, match="not a contiguous run"):
        layouts.tile_modes(layout, layouts.parse_tile("[32:2]"))


def test_slice_keeps_underscores_and_offsets_the_rest():
    layout = Layout(((4, 5), (6, 7)), ((1, 10), (100, 1000)))
    assert layouts.slice_layout(((1, 2), (None, 3)), layout) == (Layout((6,), (100,)), 1 + 20 + 3000)
    assert layouts.slice_layout((9, (None, None)), layout) == (Layout((6, 7), (100, 1000)), 1 + 20)


def test_the_stride_of_an_extent_of_one_is_free():
    template = layouts.parse_layout("(?,?):(?,1)")
    assert layouts.bind(template, Layout((3, 1), (7, 99)), "x") == Layout((3, 1), (7, 1))
    with pytest.raises(ValueError, match="x, stride: compiled for 1, got 99"):
        layouts.bind(template, Layout((3, 2), (7, 99)), "x")


# --- IR text ---


def test_split_top_respects_brackets_quotes_and_arrows():
    assert text.split_top('a<b, c>, "d, e", (f) -> (g, h), {i = [1, 2]}') == [
        "a<b, c>", '"d, e"', "(f) -> (g, h)", "{i = [1, 2]}",
    ]  # fmt: skip
    assert text.split_top(" ") == []


def test_types():
    tiled = "!cute.tiled_mma<!cute_nvgpu.sm100.mma<128x128x16, num_cta = 2, ab_major = (k, k), c_scale_exp = 0>, x = 1>"
    assert parse_type("!mma", {"!mma": tiled}) == MmaType(8)
    with pytest.raises(ValueError, match="only the dense, unscaled"):
        parse_type("!cute_nvgpu.sm100.mma<128x128x64, num_cta = 1, vec_scale = 16>", {})
    with pytest.raises(ValueError, match="only unit steps"):
        parse_type('!cute_nvgpu.atom.non_exec_tiled_tma_load<sm_90, tma_gbasis = <"(8):(2@0)">, tma_format = U8>', {})


def test_shared_memory_of_alternative_branches_overlaps():
    ir = """!a = !cute.memref<i8, smem, align<8>, "100:1">
!b = !cute.memref<i8, smem, align<128>, "300:1">
module attributes {gpu.container_module} {
  gpu.module @kernels {
    cuda.kernel @k(%arg0: i32) attributes {x = array<i32: 1>} {
      %smem = cute.memref.alloca() {smem.partition_id = 1 : i32} : !a
      scf.if %c {
        %smem_1 = cute.memref.alloca() {smem.partition_id = 1 : i32} : !b
      } else {
        scf.if %d {
        }
        %smem_2 = cute.memref.alloca() {smem.partition_id = 1 : i32} : !a
        %rmem = cute.memref.alloca() : !c
      }
      %smem_3 = cute.memref.alloca() {smem.partition_id = 1 : i32} : !a
      return
    }
  }
  func.func @host(%arg0: i32) -> i32 {
    return %arg0 : i32
  }
}
"""
    (spec,) = cute_abi.parse_ir(ir).values()
    # 100, then 300 from 128 (the other branch ends at 204), then 100 from the next multiple of 8.
    assert spec.shared_bytes == 432 + 100
    assert spec.block is None


@pytest.mark.parametrize(
    "box, participants, share",
    [
        ((64, 128), 1, (64, 128)),
        ((64, 128), 4, (64, 32)),
        ((64, 64, 1), 2, (64, 32, 1)),
        ((64, 2, 1), 8, (16, 1, 1)),
    ],
)
def test_multicast_shares_cover_the_box(box, participants, share):
    assert host_launch._multicast_share(box, participants) == share
    assert np.prod(share) * participants == np.prod(box)


# --- packing ---


@given(st.integers(1, (1 << 31) - 1), st.integers(0, (1 << 32) - 1))
def test_fast_divmod(divisor, n):
    multiplier, shift1, shift2 = FastDivmod(divisor).magic()
    assert 0 <= multiplier < 1 << 32
    high = (multiplier * n) >> 32
    assert (((n - high) >> shift1) + high) >> shift2 == n // divisor


@pytest.mark.parametrize("divisor", [0, -1, 1 << 31])
def test_fast_divmod_refuses(divisor):
    with pytest.raises(ValueError, match="divisor"):
        FastDivmod(divisor)


@pytest.mark.parametrize("ctas, size, align", [(1, 32, 16), (2, 64, 32)])
def test_default_mma_state(ctas, size, align):
    """Sizes as in the PTX of one- and two-CTA tutorial GEMMs; zero means: overwrite, no negation, every lane."""
    assert params.pack_value(MmaType(4 * ctas), None, "x") == params.Blob(bytes(size), align)


def test_structs_pad_like_c():
    fields = [params.Blob(b"\1", 1), params.Blob(b""), params.Blob(b"\2" * 8, 8), params.Blob(b"\3" * 2, 2)]
    assert params.join(fields) == params.Blob(b"\1" + bytes(7) + b"\2" * 8 + b"\3" * 2 + bytes(6), 8)


def test_overlapping_arrays_become_one_buffer():
    base = torch.zeros(4, 10, dtype=torch.int16)
    views = [base[:, :6], base[:, 4:], np.zeros(3, np.int64), 5, torch.zeros(0)]
    assert sorted(buffer.size for buffer in buffers_of(views)) == [24, 80]
    numbers = np.zeros((3, 4), np.int16)
    (buffer,) = buffers_of([numbers[:0:-1, :2]])
    assert buffer.ctypes.data == numbers[1:].ctypes.data and buffer.size == 2 * (4 + 2)
    buffer[:] = 0xFF
    assert numbers.tolist() == [[0, 0, 0, 0], [-1, -1, -1, -1], [-1, -1, 0, 0]]
