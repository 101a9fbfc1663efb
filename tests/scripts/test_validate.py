from __future__ import annotations

import json
import math

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
        (["--dtype", "fp8"], "'fp8': must be one of bf16, fp16"),
        (["--num-heads", "0"], "'0': must be an integer of at least 1"),
        (["--num-heads", "129"], "--num-heads 129: must be 1..128"),
        (["--seq-len-q", "1,x"], "'x': must be an integer"),
        (["--kv-len", "-4"], "must be an integer of at least 0"),
        (["--page-size", "48"], "--page-size 48: must be one of 16, 32, 64, 128"),
        (["--backend", "triton"], "invalid choice: 'triton'"),
        (["--backend", "torch", "--mutate", "no-mtp-mask"], "it needs --backend cute or emulator"),
        (["--backend", "emulator", "--mutate", "nothing"], "--mutate nothing: must be one of no-mtp-mask"),
    ],
)
def test_wrong_arguments_are_exit_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        validate.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_defaults_include_the_row_that_decides():
    cases = validate.cases_of(validate.parse_arguments(["--backend", "torch"]))
    assert validate.Case("bf16", 16, 8, 2048, 10, 64, True) in cases
