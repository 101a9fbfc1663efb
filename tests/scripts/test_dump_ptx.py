from __future__ import annotations

import pytest

from scripts.cubin_report import report_cubin
from scripts.dump_ptx import main


def test_ptx_ir_and_cubin_of_one_configuration(tmp_path, capsys):
    arguments = [
        "--dtype",
        "fp16",
        "--num-heads",
        "3",
        "--seq-len-q",
        "2",
        "--arch",
        "sm_103a",
        "--no-causal",
    ]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    name = "mla_decode_fp16_h3_q2_p64_dense_narrow_sm_103a"
    assert sorted(file.name for file in tmp_path.iterdir()) == [name + end for end in (".cubin", ".mlir", ".ptx")]
    ptx, ir = ((tmp_path / (name + end)).read_text() for end in (".ptx", ".mlir"))
    assert ".target sm_103a" in ptx
    shown = capsys.readouterr().out
    kernels = report_cubin((tmp_path / (name + ".cubin")).read_bytes())
    assert len(kernels) == 2, "decode and merge"
    for kernel in kernels:
        assert f".entry {kernel.name}(" in ptx and f"@{kernel.name}(" in ir
        assert f"{kernel.registers} registers" in shown


def test_what_cannot_be_compiled_is_said(capsys):
    for arguments, message in (
        (["--num-heads", "129"], "--num-heads: '129': must be an integer of 1..128"),
        (["--out", "/proc/x"], "--out: '/proc/x': cannot be written"),
        (["--seq-len-q", "x"], "--seq-len-q: 'x': must be an integer of 1.."),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        shown = capsys.readouterr().err
        assert stopped.value.code == 2 and message in shown and shown.count("\n") == 1
