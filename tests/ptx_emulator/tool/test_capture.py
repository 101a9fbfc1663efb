"""`ptx_emulator.emulate`: CuTe DSL code that compiles and launches as it would on a GPU."""

from __future__ import annotations

import subprocess
import sys

import cutlass
import cutlass.cute as cute
import numpy as np
import pytest
import torch
from cutlass.base_dsl.compiler import CompileCallable
from cutlass.cute.runtime import from_dlpack, make_fake_stream, make_fake_tensor, make_ptr
from cutlass.cutlass_dsl import CuTeDSL
from cutlass.utils import HardwareInfo

from ptx_emulator import emulate
from ptx_emulator.__main__ import main
from ptx_emulator.errors import OutOfBounds

from .kernels import COLUMNS, ROWS, STREAM, Add, column_sums, fill, racing_reverse


def rows(count: int = 3) -> list[torch.Tensor]:
    return [*torch.randn(2, count, 64), torch.full((count, 64), torch.nan)]


def fakes() -> list:
    sizes = (cute.sym_int(), 64), (cute.sym_int64(divisibility=4), 1)
    return [make_fake_tensor(cutlass.Float32, *sizes, assumed_align=16)] * 3


def test_a_compiled_kernel_and_its_launches():
    a, b, out = rows()
    given = [from_dlpack(tensor) for tensor in (a, b, out)]
    with emulate(checks=True) as emulation:
        compiled = cute.compile(Add(64), *given, 0, STREAM)
        compiled(*given, STREAM)
        assert torch.equal(out, a + b)
        compiled(*given, STREAM, factor=2.0)
        assert torch.equal(out, a + 2 * b)
    ((first,), (second,)) = emulation.calls
    assert [report.ctas for report in first.reports] == [3] and "add_rows" in second.reports[0].kernel
    assert emulation.hazards == [] and emulation.differences == []
    assert compiled.artifacts.CUBIN is None and ".target sm_100a" in compiled.artifacts.PTX


def test_fake_tensors_tvm_ffi_and_options_of_the_script():
    """As the library compiles: any number of rows, tensors as they are, the stream found by the call itself."""
    with emulate():
        options = "--enable-tvm-ffi --gpu-arch sm_103a"
        compiled = cute.compile(Add(64), *fakes(), 0, make_fake_stream(use_tvm_ffi_env_stream=True), options=options)
        for count in (1, 4):
            a, b, out = rows(count)
            compiled(a, b, out)
            assert torch.equal(out, a + b)
        a, b, out = (tensor.numpy() for tensor in rows())
        compiled(a, b, out, factor=4.0)
        assert np.array_equal(out, a + 4 * b)
    assert ".target sm_103a" in compiled.artifacts.PTX


def test_a_jit_function_that_is_called():
    a, b, out = rows()
    with emulate() as emulation:
        Add(64)(*(from_dlpack(tensor) for tensor in (a, b, out)), 0, stream=STREAM, factor=2.0)
    assert torch.equal(out, a + 2 * b) and len(emulation.calls) == 1


def test_a_tma_load():
    """Its coordinate tensor is static: it is no parameter of the kernel."""
    source, out = torch.randn(ROWS, COLUMNS), torch.zeros(COLUMNS)
    with emulate(orders=["in_order", "late", "adversarial"], checks=True) as emulation:
        column_sums(from_dlpack(source, assumed_align=16), from_dlpack(out))
    assert torch.allclose(out, source.sum(0), atol=1e-4)
    assert emulation.hazards == [] and emulation.calls[0][0].reports[0].counters["tma_load_bytes"] == ROWS * COLUMNS * 4


def test_a_race_and_what_it_leads_to():
    source, out = torch.randn(64), torch.zeros(64)
    with emulate(orders=["in_order", "random"], seeds=6, checks=True) as emulation:
        racing_reverse(from_dlpack(source), from_dlpack(out))
        in_order = out.clone()
    assert {"race"} <= {hazard.kind for hazard in emulation.hazards}
    assert any("random, seed" in text and "out[" in text for text in emulation.differences)
    with emulate():
        racing_reverse(from_dlpack(source), from_dlpack(out))
    assert torch.equal(out.view(torch.int32), in_order.view(torch.int32)), "the script sees the first schedule's result"


def test_memory_behind_an_address_is_named():
    memory = np.zeros(32, np.float32)
    pointer = make_ptr(cutlass.Float32, memory.ctypes.data, cutlass.AddressSpace.gmem, assumed_align=4)
    with emulate(buffers=[memory]):
        fill(pointer)
    assert (memory == 7).all()
    with emulate(), pytest.raises(OutOfBounds):
        fill(pointer)


def test_everything_is_put_back():
    settings = CuTeDSL._get_dsl().envar
    before = dict(vars(settings)), dict(vars(CompileCallable)), vars(HardwareInfo)["__init__"]
    with emulate() as outer:
        assert HardwareInfo().get_max_active_clusters(2) == 74
        with emulate() as inner:
            compiled = cute.compile(Add(64), *fakes(), 0, STREAM)
            compiled(*rows(), STREAM)
        assert settings.keep_ptx and len(inner.calls) == 1
        compiled(*rows(), STREAM)
        assert len(outer.calls) == 1
    assert before == (dict(vars(settings)), dict(vars(CompileCallable)), vars(HardwareInfo)["__init__"])
    with emulate() as later:
        compiled(*rows(), STREAM)
    assert len(later.calls) == 1, "a function that a cache has kept"


def test_the_commands_take_a_dump_folder(tmp_path, capsys):
    with emulate():
        compiled = cute.compile(Add(64), *fakes(), 0, STREAM)
    (tmp_path / "add_clean.mlir").write_text(compiled.ir)
    (tmp_path / "add.ptx").write_text(compiled.ptx)
    case = tmp_path / "case.py"
    case.write_text(
        "import torch\n"
        "def arguments(rows=2): return {**dict(zip(('a', 'b', 'out'), torch.ones(3, rows, 64))), 'factor': 2.0}\n"
        "def check(given): return bool((given['out'] == 3).all())\n"
    )
    assert main(["run", str(case), "--dump", str(tmp_path), "rows=3", "--orders", "in_order"]) == 0
    assert "1 schedule: right, bit for bit the same" in capsys.readouterr().out
    assert main(["coverage", str(tmp_path)]) == 0
    assert main(["time", str(case), "--dump", str(tmp_path)]) == 0
    assert "modelled at" in capsys.readouterr().out


def test_wrong_options():
    for options, message in (
        ({"orders": ["early"]}, "orders="),
        ({"seeds": 0}, "seeds=0"),
        ({"time_limit": -1}, "time_limit=-1"),
        ({"suppress": "x.ini"}, "needs checks=True"),
    ):
        with pytest.raises(ValueError, match=message), emulate(**options):
            raise AssertionError("not reached")


def test_without_the_dsl_one_line_says_what_is_missing():
    code = "import sys; sys.modules['cutlass'] = None\nimport ptx_emulator\nwith ptx_emulator.emulate(): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: emulate() needs CuTe DSL, which is not installed: pip install nvidia-cutlass-dsl"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, ptx_emulator; print(sorted({'numpy', 'numba', 'cutlass'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
