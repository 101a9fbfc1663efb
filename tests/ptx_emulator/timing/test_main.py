"""The command that times a kernel given by a Python file, on a CuTe DSL kernel of the tests' own."""

import json
import textwrap

import pytest

from ptx_emulator.timing.__main__ import main

CASE = textwrap.dedent(
    """
    import os, tempfile
    import torch
    from mla.compile import compile_decode
    from mla.config import MlaDecodeConfig
    from bench.prediction import host_arguments
    from bench.workloads import Workload

    def arguments(kv_len=256):
        workload = Workload.uniform("fp8", 16, 1, kv_len, 1)
        config = MlaDecodeConfig("fp8", 16, 1, True, 64)
        kernel = compile_decode(config)
        return kernel.ir, kernel.ptx, host_arguments(workload, config)
    """
)


@pytest.fixture
def case(tmp_path):
    path = tmp_path / "case.py"
    path.write_text(CASE)
    return str(path)


def test_more_keys_cost_more(case, capsys):
    totals = []
    # 256 and 16384 keys would both give every CTA one tile; of 81920 each has several.
    for keys in (256, 81920):
        assert main([case, f"kv_len={keys}", "--clusters", "0", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["modelled"] is True
        assert len(found["launches"]) == 2
        totals.append(found["total_us"])
    assert totals[1] > totals[0] > 2.2
    assert main([case, "--waits"]) == 0
    assert "modelled at 1.93 GHz" in capsys.readouterr().out


def test_what_if_tables_traces_and_measured_constants_of_any_kernel(case, tmp_path, capsys):
    measured, trace = tmp_path / "measured.json", tmp_path / "trace.json"
    measured.write_text('{"launch": 0.0000042}')
    options = ["--constants", str(measured), "--relax", "--sensitivity", "--trace", str(trace)]
    assert main([case, "--clusters", "0", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {(row["kind"], row["name"]) for row in found["variants"]}
    assert {("relaxed", "launch, hand-over"), ("disputed", "code from L2")} <= names
    totals = {row["name"]: row["total_us"] for row in found["variants"]}
    assert found["total_us"] > 4.2 > found["total_us"] - totals["launch, hand-over"] > 2.1
    assert totals["code warm"] < found["total_us"] < totals["code from L2"]
    events = json.loads(trace.read_text())["traceEvents"]
    tracks = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"tensor core", "TMA", "warp 0"} <= tracks
    assert any(event["name"] == "waits: code" for event in events)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "no such file"),
        (["--set", "clocks=1", "x.py"], "constant 'clocks'"),
        (["--constants", "nowhere.json", "x.py"], "No such file"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
