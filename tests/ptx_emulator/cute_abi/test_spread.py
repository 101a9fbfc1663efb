"""`cute_abi.launch(spread=...)`: rows of an array that lie apart in the launch, so that overruns are seen."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
import numpy as np
import pytest
import torch
from cutlass.cute.runtime import make_fake_tensor
from cutlass.cutlass_dsl import CuTeDSL

from ptx_emulator import cute_abi
from ptx_emulator.cute_abi.spread import ROW_ALIGN, spread_rows
from ptx_emulator.errors import OutOfBounds

ROWS, WIDTH = 3, 5


@cute.kernel
def _sum_rows(table: cute.Tensor, planes: cute.Tensor, out: cute.Tensor, width: cutlass.Int32):
    row = cute.arch.block_idx()[0]
    total = cutlass.Int32(0)
    for i in cutlass.range(width):
        total = total + table[row, i] + planes[0, row, i]
    out[row, 0] = total


@cute.jit
def _host(table: cute.Tensor, planes: cute.Tensor, out: cute.Tensor, width: cutlass.Int32):
    _sum_rows(table, planes, out, width).launch(grid=[table.shape[0], 1, 1], block=[1, 1, 1])


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[str, str]:
    def tensor(shape, strides):
        return make_fake_tensor(cutlass.Int32, shape, strides, assumed_align=4)

    rows, n = cute.sym_int(), cute.sym_int64
    arguments = [
        tensor((rows, cute.sym_int()), (n(), 1)), tensor((cute.sym_int(), rows, WIDTH), (n(), n(), 1)),
        tensor((rows, 2), (2, 1)), cutlass.Int32(0),
    ]  # fmt: skip
    settings = CuTeDSL._get_dsl().envar
    saved = settings.keep_ir_clean, settings.dump_dir
    settings.keep_ir_clean, settings.dump_dir = True, str(tmp_path_factory.mktemp("dump"))
    try:
        options = "--enable-tvm-ffi --keep-ptx --gpu-arch sm_100a"
        artifacts = cute.compile(_host, *arguments, options=options).artifacts
    finally:
        settings.keep_ir_clean, settings.dump_dir = saved
    return artifacts.MLIR, artifacts.PTX.rstrip("\0")


def launched(texts, width: int, **options):
    """Row sums of a dense table and of a dense [2, ROWS, WIDTH] array's first plane."""
    table = torch.arange(ROWS * WIDTH, dtype=torch.int32).view(ROWS, WIDTH)
    planes, out = table.repeat(2, 1, 1), torch.zeros(ROWS, 2, dtype=torch.int32)
    names = {"table": table, "planes": planes, "out": out}
    (report,) = cute_abi.launch(*texts, [table, planes, out, width], names=names, checks=True, **options)
    if width == WIDTH:
        assert torch.equal(out[:, 0], 2 * table.sum(1)) and not out[:, 1].any()
    return report.hazards


@pytest.mark.parametrize("spread", [(), ("table",), ("table", "planes")], ids=str)
def test_rows_that_are_read_to_their_end_are_silent(spread, texts):
    assert launched(texts, WIDTH, spread=spread) == []


@pytest.mark.parametrize("name", ["table", "planes"])
def test_the_next_row_of_a_dense_array_is_seen_only_where_rows_are_apart(name, texts):
    """The last row's overrun leaves the array, and is an error in any case."""

    def overruns(spread):
        with pytest.raises(OutOfBounds) as caught:
            launched(texts, WIDTH + 1, spread=spread)
        return [hazard.place for hazard in caught.value.hazards if hazard.kind == "row-overrun"]

    assert overruns(()) == []
    places = overruns((name,))
    assert places and all(place.startswith(f"{name}, byte ") for place in places)


def test_what_a_launch_writes_comes_back(texts):
    """`out` has a stride that is compiled in; the table is an argument twice, by two names."""
    with pytest.raises(ValueError, match=r"spread=\['out'\].*argument 2.*stride.*compiled for 2, got 32"):
        launched(texts, WIDTH, spread=["out"])
    out = torch.zeros(2, 3, dtype=torch.bfloat16)
    apart = spread_rows([out, (out, 7)], {"out": out}, ["out"])
    copy = apart.args[0]
    assert copy is apart.args[1][0] is apart.names["out"] and apart.args[1][1] == 7
    copy[1, 2] = 0x3F80
    apart.write_back()
    assert out[1, 2] == 1.0 and out.sum() == 1.0


@pytest.mark.parametrize("make", [
    lambda storage: storage, lambda storage: storage[:, 1:, :3], lambda storage: storage.transpose(1, 0, 2),
    lambda storage: storage[:1],
], ids=["dense", "a view", "turned", "one plane"])  # fmt: skip
def test_copies_are_equal_and_regular(make):
    array = make(np.arange(4 * 3 * 7, dtype=np.int16).reshape(4, 3, 7))
    copy = spread_rows([array], {"x": array}, ["x"]).args[0]
    assert np.array_equal(copy.view(np.int16), array)
    steps = sorted(step for step, n in zip(copy.strides, copy.shape) if n > 1)[1:]
    assert steps[0] == ROW_ALIGN and all(step % ROW_ALIGN == 0 for step in steps)
    assert copy.ctypes.data % ROW_ALIGN == 0


@pytest.mark.parametrize("value, words", [
    (torch.zeros(3), "must have rows"), (torch.zeros(3, 4).T, "last dimension must be contiguous"),
    (torch.zeros(0, 4), "must have rows"), (7, "'x' is no array of this launch: must be among y"),
])  # fmt: skip
def test_what_has_no_rows_is_refused(value, words):
    with pytest.raises(ValueError, match=words):
        spread_rows([value], {"x": value, "y": torch.zeros(2, 2)}, ["x"])
