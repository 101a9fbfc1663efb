from __future__ import annotations

import json

import pytest

from mla.arch import SMEM_BYTES_PER_CTA, TMEM_COLUMNS
from scripts import resources


def test_a_variant_is_measured(capsys, tmp_path):
    file = tmp_path / "rows.json"
    arguments = ["--dtype", "fp8", "--path", "wide", "--arch", "sm_100a", "--json", str(file), "--require-clean"]
    assert resources.main(arguments) == 0
    (row,) = json.loads(file.read_text())
    assert (row["dtype"], row["path"], row["arch"], row["threads"]) == ("fp8", "wide", "sm_100a", 384)
    assert 0 < row["merge_registers"] < row["registers"] <= 168, "65536 registers over 384 threads"
    assert row["spilled_bytes"] == row["local_instructions"] == 0
    assert row["shared_bytes"] <= SMEM_BYTES_PER_CTA and row["tmem_columns"] == TMEM_COLUMNS
    assert f"{row['shared_bytes']}/{SMEM_BYTES_PER_CTA}" in capsys.readouterr().out


def test_a_variant_that_spills_is_exit_status_1(monkeypatch, capsys):
    spilled = resources.Resources("fp8", "wide", "sm_100a", 384, 168, 40, 64, 12, 1000, 512, 1312.0)
    monkeypatch.setattr(resources, "measure", lambda *variant: spilled)
    arguments = ["--dtype", "fp8", "--path", "wide", "--arch", "sm_100a"]
    assert resources.main(arguments) == 0
    assert resources.main([*arguments, "--require-clean"]) == 1


def test_an_interrupted_run_shows_what_is_done(monkeypatch, capsys, tmp_path):
    original = resources.measure

    def measure(dtype, path, arch):
        if path == "wide":
            raise KeyboardInterrupt
        return original(dtype, path, arch)

    monkeypatch.setattr(resources, "measure", measure)
    file = tmp_path / "rows.json"
    arguments = ["--dtype", "fp8", "--arch", "sm_100a", "--path", "narrow,wide", "--json", str(file)]
    assert resources.main(arguments) == 130
    assert [row["path"] for row in json.loads(file.read_text())] == ["narrow"]
    shown = capsys.readouterr()
    assert "narrow" in shown.out and shown.err.endswith("interrupted: 1 of 2 variants\n")


def test_unknown_names_are_exit_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        resources.main(["--path", "both"])
    assert stopped.value.code == 2
    assert "--path both: must be one of narrow, wide, isolated" in capsys.readouterr().err
