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
    with pytest.raises(SystemExit):
        main(["--num-heads", "129"])
    assert "num_heads=129: must be in 1..128" in capsys.readouterr().err
