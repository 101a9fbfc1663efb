from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from scripts import validate
from wrappers import decode

SMALL = ["--dtype", "bf16", "--num-heads", "4", "--seq-len-q", "3", "--kv-len", "70", "--batch", "2"]
FIELDS = {
    "dtype", "num_heads", "seq_len_q", "kv_len", "batch", "page_size", "is_causal", "backend", "arch", "snr_db",
    "baseline_snr_db", "max_abs_err", "lse_max_abs_err", "passed",
}  # fmt: skip


def test_all_combinations_in_a_table_and_in_json(capsys, tmp_path):
    file = tmp_path / "rows.json"
    arguments = [
        *SMALL,
        "--dtype",
        "bf16,fp16",
        "--seq-len-q",
        "1,3",
        "--page-size",
        "16",
        "--json",
        str(file),
    ]
    assert validate.main([*arguments, "--backend", "torch", "--no-causal"]) == 0
    rows = json.loads(file.read_text())
    assert [(row["dtype"], row["seq_len_q"]) for row in rows] == [
        ("bf16", 1),
        ("bf16", 3),
        ("fp16", 1),
        ("fp16", 3),
    ]
    for row in rows:
        assert FIELDS <= set(row)
        assert row["passed"] and row["page_size"] == 16 and row["is_causal"] is False and row["backend"] == "torch"
        assert row["snr_db"] > row["baseline_snr_db"] - 0.5 > 50
    shown = capsys.readouterr()
    assert shown.out.count("passed") == 4 and "SNR dB" in shown.out
    assert "[4/4]" in shown.err


def test_json_on_stdout_is_all_of_stdout(capsys):
    assert validate.main([*SMALL, "--backend", "torch", "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)) == 1
    assert "SNR dB" in shown.err


def wrong_mask(*tensors, is_causal, **options):
    return DECODE(*tensors, is_causal=False, **options)


def wrong_lse(*tensors, **options):
    out, lse = DECODE(*tensors, **options)
    return out, lse + 0.01


def all_nan(*tensors, **options):
    out, lse = DECODE(*tensors, **options)
    return out * math.nan, lse


def slightly_large(*tensors, **options):
    """Off by 0.8 %, two bf16 units in the last place: 42 dB, where a right kernel has 54."""
    out, lse = DECODE(*tensors, **options)
    return out * (1 + 2**-7), lse


DECODE = decode.mla_decode


@pytest.mark.parametrize("wrong", [wrong_mask, wrong_lse, all_nan, slightly_large])
def test_a_wrong_result_is_exit_status_1(wrong, monkeypatch, capsys):
    monkeypatch.setattr(decode, "mla_decode", wrong)
    assert validate.main([*SMALL, "--backend", "torch", "--json", "-"]) == 1
    shown = capsys.readouterr()
    (row,) = json.loads(shown.out)
    assert row["passed"] is False and row["faults"]
    assert "FAILED" in shown.err


def test_an_exact_output_has_no_finite_snr(capsys):
    """One key: the output is that key's value, rounded nowhere."""
    assert validate.main([*SMALL, "--kv-len", "1", "--backend", "torch", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["snr_db"] is None and row["max_abs_err"] == 0.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dtype", "fp4"], "'fp4': must be one of bf16, fp16, fp8"),
        (["--num-heads", "0"], "--num-heads: '0': must be an integer of 1..128"),
        (["--num-heads", "129"], "--num-heads: '129': must be an integer of 1..128"),
        (["--seq-len-q", "1,x"], "'x': must be an integer"),
        (["--kv-len", "-4"], "--kv-len: '-4': must be an integer of 0.."),
        (["--page-size", "48"], "--page-size 48: must be one of 16, 32, 64, 128"),
        (["--logit-sigma", "1,wide"], "'wide': must be a number"),
        (["--value-mean", "nan"], "'nan': must be a number"),
        (["--backend", "triton"], "invalid choice: 'triton'"),
        (["--backend", "torch", "--mutate", "no-mtp-mask"], "it needs --backend cute or emulator"),
        (["--backend", "emulator", "--mutate", "nothing"], "--mutate nothing: must be one of no-mtp-mask"),
        (["--mode", "tree", "--no-causal"], "--mode tree: not with --no-causal"),
        (["--mode", "tree", "--seq-len-q", "257"], "--seq-len-q 257: must be at most 256 with --mode tree"),
        (["--kv-len", "10000000000"], "--kv-len: '10000000000': must be an integer of 0.."),
        (["--kv-len", "2000000000", "--batch", "9"], "its inputs take 38624 GiB, this machine has"),
        (["--batch", "9" * 5000], "must be an integer of 1.."),
        (["--num-heads", "²"], "'²': must be an integer of 1..128"),
        (["--seed", "-1"], "--seed: '-1': must be an integer of 0.."),
        (["--seed", "99999999999999999999"], "--seed: '99999999999999999999': must be an integer of 0.."),
        (
            ["--json", "/nonexistent/rows.json"],
            "'/nonexistent/rows.json': cannot be written (No such file or directory)",
        ),
        (["--json", "/"], "'/': cannot be written (Is a directory)"),
    ],
)
def test_wrong_arguments_are_exit_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        validate.main(arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize("json_to", ["-", "file"])
def test_an_interrupted_run_shows_the_rows_that_are_done(json_to, monkeypatch, capsys, tmp_path):
    original, calls = validate.run_case, []

    def run_case(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(validate, "run_case", run_case)
    file = "-" if json_to == "-" else str(tmp_path / "rows.json")
    given = ["--backend", "torch", "--dtype", "bf16", "--seq-len-q", "1,2,3,4", "--kv-len", "5", "--batch", "1"]
    assert validate.main([*given, "--json", file]) == 130
    shown = capsys.readouterr()
    rows = json.loads(shown.out if json_to == "-" else (tmp_path / "rows.json").read_text())
    assert [row["seq_len_q"] for row in rows] == [1, 2]
    assert (shown.err if json_to == "-" else shown.out).count("passed\n") >= 2
    assert shown.err.endswith("interrupted: 2 of 4 rows\n")


def cases(*arguments):
    return validate.cases_of(validate.parse_arguments([*arguments, "--backend", "torch"]))


def test_defaults_include_the_row_that_decides():
    for path in ("narrow", "wide"):
        assert validate.Case("bf16", 16, 8, 2048, 10, 64, True, path=path) in cases()
    pairs = {(case.dtype, case.path) for case in cases()}
    assert pairs == {(dtype, path) for dtype in ("bf16", "fp16", "fp8") for path in ("narrow", "wide")}
    assert {case.dtype for case in cases()} == {"bf16", "fp16", "fp8"}
    assert {case.dtype for case in cases("--dtype", "fp16")} == {"fp16"}
    assert {case.page_size for case in cases()} == {16, 32, 64, 128}
    assert {case.logit_sigma for case in cases("--dtype", "fp8")} == {1.0, 2.0, 3.0}


def test_any_shape_option_replaces_the_default_set():
    found = cases("--dtype", "bf16", "--kv-len", "70,80", "--no-causal")
    assert found == [
        validate.Case("bf16", seq_len_q=tokens, kv_len=keys, is_causal=False)
        for tokens in (1, 4, 8)
        for keys in (70, 80)
    ]


def test_ragged_lengths_go_from_the_longest_to_0():
    assert validate.Case("bf16", kv_len=100, batch=5, is_ragged=True).kv_lens == [100, 75, 50, 25, 0]
    assert validate.Case("bf16", kv_len=100, batch=2).kv_lens == [100, 100]
    assert validate.Case("bf16", kv_len=100, batch=1, is_ragged=True).kv_lens == [100]
    arguments = [*SMALL, "--ragged", "--batch", "3", "--backend", "torch"]
    assert validate.main(arguments) == 0


def test_peaked_inputs_reach_the_problem(capsys):
    arguments = [*SMALL, "--dtype", "fp8", "--kv-len", "1000", "--backend", "torch", "--json", "-"]
    assert validate.main([*arguments, "--logit-sigma", "1,3", "--value-mean", "1"]) == 0
    flat, peaked = json.loads(capsys.readouterr().out)
    assert (flat["logit_sigma"], peaked["logit_sigma"], peaked["value_mean"]) == (1.0, 3.0, 1.0)
    assert peaked["baseline_snr_db"] < flat["baseline_snr_db"] - 3


@pytest.mark.parametrize("mode", validate.MODES)
def test_modes(mode, capsys):
    arguments = [*SMALL, "--batch", "3", "--seq-len-q", "3", "--mode", mode, "--backend", "torch", "--json", "-"]
    assert validate.main(arguments) == 0
    assert [row["mode"] for row in json.loads(capsys.readouterr().out)] == [mode]


def test_a_mode_reaches_the_problem():
    case = validate.Case("bf16", kv_len=40, batch=4, seq_len_q=2)
    problems = {mode: replace(case, mode=mode).problem(0) for mode in validate.MODES}
    assert problems["ragged"].cu_seqlens_q.tolist() == [0, 2, 3, 3, 5]
    assert problems["tree"].tree_mask.shape == (4, 2, 2)
    assert (problems["dcp"].dcp_world, problems["dcp"].dcp_rank, problems["dcp"].dcp_interleave) == (2, 1, 16)
    assert problems["scales"].softmax_scale.shape == (1,)
    assert problems["window"].window_left == 20
    assert problems["lens"].local_visible_lens.shape == (4, 2)
