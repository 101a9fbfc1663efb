from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.accuracy import main, page, read_rows, threshold_section

DOCS = Path(__file__).parents[2] / "docs"
ROW = {
    "dtype": "fp8", "batch": 2, "num_heads": 16, "seq_len_q": 4, "kv_len": 512, "path": "narrow", "arch": "sm_100a",
    "backend": "emulator", "snr_db": 41.256, "baseline_snr_db": None, "max_abs_err": 0.00123, "lse_max_abs_err": 1e-6,
    "passed": True, "mutation": None,
}  # fmt: skip


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def test_a_page_has_a_row_per_case(tmp_path):
    rows = [ROW, {**ROW, "dtype": "bf16", "passed": False}]
    text = page(read_rows(Path(write(tmp_path / "rows.json", rows))))
    assert text.splitlines()[-2:] == [
        "| bf16 | 2 | 16 | 4 | 512 | narrow | sm_100a | 41.26 | - | 1.2e-03 | 1.0e-06 | **FAILED** |",
        "| fp8 | 2 | 16 | 4 | 512 | narrow | sm_100a | 41.26 | - | 1.2e-03 | 1.0e-06 | passed |",
    ]
    assert "executed by the emulator" in text


def test_the_page_and_the_plot_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot needs the extra 'docs'")
    rows = [{**ROW, "baseline_snr_db": 41.0, "kv_len": length, "seq_len_q": q} for length in (128, 512) for q in (1, 4)]
    file = write(tmp_path / "rows.json", rows)
    for folder in ("a", "b"):
        assert main([file, "--out", str(tmp_path / folder)]) == 0
    first, second = ((tmp_path / folder / "accuracy.svg").read_text() for folder in ("a", "b"))
    assert first == second and "Q = 4" in first and "<svg" in first
    assert "accuracy.svg" in (tmp_path / "a" / "accuracy.md").read_text()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "holds no rows"),
        ({}, "holds no rows"),
        ([{**ROW, "mutation": "no-mtp-mask"}], "rows of a mutated kernel"),
        ([ROW, {**ROW, "backend": "torch"}], "more than one backend"),
    ],
)
def test_rows_that_make_no_page(rows, message, tmp_path, capsys):
    assert main([write(tmp_path / "rows.json", rows), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_in_docs_is_made_of_the_rows_beside_it():
    rows = read_rows(DOCS / "accuracy.json")
    thresholds = json.loads((DOCS / "rescale-threshold.json").read_text())
    assert (DOCS / "accuracy.md").read_text() == page(rows) + threshold_section(thresholds)
    assert all(row["passed"] for row in rows)
