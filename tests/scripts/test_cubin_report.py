from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mla.compile import compile_decode
from mla.config import MlaDecodeConfig
from scripts.cubin_report import main, report_cubin

KERNELS = Path(__file__).with_name("local_memory_kernels.py")


@pytest.fixture(scope="module")
def cubin(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cubin")
    settings = {
        "CUTE_DSL_ARCH": "sm_100a",
        "CUTE_DSL_KEEP": "cubin",
        "CUTE_DSL_DUMP_DIR": str(folder),
        "CUTE_DSL_DISABLE_FILE_CACHING": "1",
    }
    target = folder / "kernels.bin"
    subprocess.run([sys.executable, KERNELS, target], env={**os.environ, **settings}, check=True)
    return target


@pytest.fixture
def reports(cubin):
    return {
        kind: next(report for report in report_cubin(cubin.read_bytes()) if kind in report.name)
        for kind in ("clean", "indexes_array", "spills")
    }


def test_a_kernel_in_registers_is_clean(reports):
    assert reports["clean"].is_clean
    assert 0 < reports["clean"].registers < 32


def test_an_array_in_local_memory_is_found(reports):
    report = reports["indexes_array"]
    assert not report.is_clean
    assert report.stack_bytes >= 64 * 4
    assert report.local_stores > 0 and report.local_loads > 0


def test_spilled_registers_are_found(reports):
    report = reports["spills"]
    assert not report.is_clean
    # 1024 threads share 65536 registers; what does not fit of 96 values is on the stack.
    assert report.registers <= 64
    assert report.stack_bytes >= (96 - 64) * 4
    assert report.local_stores >= 96 - 64 and report.local_loads >= 96 - 64


def test_exit_status_says_whether_all_kernels_are_clean(cubin, capsys):
    assert main([str(cubin)]) == 0
    assert main([str(cubin), "--require-clean"]) == 1
    assert "STL" in capsys.readouterr().out


def test_a_wrong_file_is_exit_status_2(cubin, tmp_path, capsys):
    content = cubin.read_bytes()
    files = {"a text": b"# no ELF\n", "empty": b"", "half": content[: len(content) // 2], "header": content[:70]}
    for name, what in files.items():
        (tmp_path / name).write_bytes(what)
    for name in (*files, "nowhere", "."):
        with pytest.raises(SystemExit) as stopped:
            main([str(cubin), str(tmp_path / name)])
        shown = capsys.readouterr()
        assert stopped.value.code == 2 and not shown.out
        assert str(tmp_path / name).rstrip(".") in shown.err and shown.err.count("\n") == 1


def test_a_host_program_is_refused():
    with pytest.raises(ValueError, match="ELF machine"):
        report_cubin(Path(sys.executable).resolve().read_bytes())
    with pytest.raises(ValueError, match="not a 64-bit ELF"):
        report_cubin(b"\x50\xed\x55\xba" + bytes(100))


@pytest.mark.parametrize(
    "path, dtype, num_heads, seq_len_q, page_size, arch, query_packed",
    [
        ("narrow", "bf16", 40, 2, 32, "sm_100a", True),
        ("narrow", "fp8", 16, 8, 64, "sm_100a", True),
        ("narrow", "bf16", 40, 2, 32, "sm_103a", False),
        ("auto", "bf16", 40, 3, 32, "sm_100a", False),
        ("auto", "bf16", 40, 2, 32, "sm_100a", True),
        ("auto", "fp8", 16, 8, 64, "sm_100a", True),
        ("auto", "fp8", 40, 2, 32, "sm_103a", False),
    ],
)
def test_our_kernels_spill_nothing_and_use_no_local_memory(
    path, dtype, num_heads, seq_len_q, page_size, arch, query_packed
):
    shape = num_heads, seq_len_q, True, page_size
    config = MlaDecodeConfig(dtype, *shape, lse_base="e", query_packed=query_packed, arch=arch, path=path)
    assert config.is_wide == (path == "auto")
    decode_and_merge = report_cubin(compile_decode(config).cubin)
    assert len(decode_and_merge) == 2
    assert all(report.is_clean for report in decode_and_merge), decode_and_merge


DCP_16 = {"page_size": 16, "dcp_interleave": 16}


@pytest.mark.parametrize(
    "path, dtype, arch, facts",
    [
        ("wide", "fp8", "sm_100a", {"seq_len_q": 4, "dcp_world": 2, **DCP_16, "ragged_query": True}),
        ("narrow", "fp8", "sm_103a", {"ragged_query": True, "tree_mask": True}),
        ("auto", "fp8", "sm_100a", {"sliding_window": True, "dcp_world": 4, **DCP_16}),
        ("auto", "fp16", "sm_100a", {"seq_len_q": 4, "sliding_window": True, "ragged_query": True}),
        ("auto", "bf16", "sm_103a", {"visible_lens": True, "ragged_query": True, "is_causal": False}),
        ("auto", "fp8", "sm_100a", {"num_heads": 3, "seq_len_q": 5, "visible_lens": True, "is_causal": False}),
    ],
)
def test_modes_spill_nothing_either(path, dtype, arch, facts):
    """Those of sm_100a, but for one, are kernels of tests/mla, of which those of "auto" and few rows are narrow."""
    given = {"num_heads": 16, "seq_len_q": 8, "is_causal": True, "page_size": 64, "lse_base": "e", **facts}
    config = MlaDecodeConfig(dtype, arch=arch, path=path, **given)
    assert all(report.is_clean for report in report_cubin(compile_decode(config).cubin))
