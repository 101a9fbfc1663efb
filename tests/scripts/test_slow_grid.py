"""scripts.slow_grid: with a stand-in for its check, and the check itself on one small item."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mla.compile import compile_decode
from scripts import slow_grid
from scripts.mutants import compile_mutant
from scripts.slow_grid import ITEMS, Item

PASSED = (8, [])
BAD = Item("wide", "fp8", 16, 4)


class Check:
    """Stand-in: notes what it is asked; the item `BAD` fails; interrupted before the item of number `stop`."""

    def __init__(self, stop=None):
        self.asked, self.stop = [], stop

    def __call__(self, item):
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append(item)
        return (8, ["pages of 16, dense: off"]) if item == BAD else PASSED


def run(file, *arguments, stop=None):
    """(exit status, items run); interrupted: (None, items run)."""
    check = Check(stop)
    try:
        return slow_grid.main(["--out", str(file), *map(str, arguments)], check), check.asked
    except KeyboardInterrupt:
        return None, check.asked


def test_it_goes_on_where_it_was_stopped(tmp_path, capsys):
    file = tmp_path / "grid.json"
    assert run(file, stop=7) == (None, list(ITEMS[:7]))
    with file.open("a") as lines:
        lines.write('{"path": "nar')  # as a run leaves it that is killed while it writes
    status, asked = run(file)
    assert (status, asked) == (1, list(ITEMS[7:]))
    assert run(file) == (1, []), "nothing is run twice, and what failed is still said"
    rows = [json.loads(line) for line in file.read_text().splitlines() if not line.endswith('"nar')]
    assert len(rows) == len(ITEMS) and sum(bool(row["faults"]) for row in rows) == 1
    assert {"seconds", "comparisons", "commit", "is_clean", "fingerprint"} <= rows[0].keys()
    shown = capsys.readouterr()
    assert f"{len(ITEMS)} of {len(ITEMS)} items run, 1 failed: {BAD}" in shown.out
    assert f"{BAD}: FAILED: pages of 16, dense: off" in shown.err and "min left" in shown.err


def test_other_sources_are_run_anew(tmp_path, monkeypatch):
    file = tmp_path / "grid.json"
    run(file)
    monkeypatch.setattr(slow_grid, "fingerprint", lambda: "0" * 16)
    assert run(file, "--shard", "1/2")[1] == list(ITEMS[::2])


def test_shards_are_the_whole_grid_and_each_item_once(tmp_path):
    file = tmp_path / "grid.json"
    asked = [item for part in (1, 2, 3) for item in run(file, "--shard", f"{part}/3")[1]]
    assert sorted(map(str, asked)) == sorted(map(str, ITEMS)) and run(file)[1] == []


def test_the_table_says_passed_failed_and_not_run(tmp_path):
    """Also of a run that was interrupted."""
    file, table = tmp_path / "grid.json", tmp_path / "grid.md"
    run(file, "--write", table, stop=ITEMS.index(BAD) + 1)
    text = table.read_text()
    assert f"{ITEMS.index(BAD) + 1} of {len(ITEMS)} items run" in text and "1 failed" in text
    assert "| wide | fp8 | 16 | passed | passed | **failed** | not run | not run |" in text
    assert "| wide | fp8 | 128 | not run |" in text
    assert f"- {BAD}: pages of 16, dense: off" in text


@pytest.mark.parametrize("shard", ["2", "0/2", "3/2", "1/x", "1/1000"])
def test_a_wrong_shard_is_exit_status_2(shard, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "grid.json", "--shard", shard)
    assert stopped.value.code == 2 and "must be" in capsys.readouterr().err


def right_kernel(kernel):
    return compile_decode(replace(kernel.config, path="auto"))  # as other tests name it


def test_the_check_catches_a_mutant_and_goes_on(monkeypatch):
    """One variant a wrong kernel, one that cannot be compiled, one right."""
    makers = iter((lambda kernel: compile_mutant(kernel.config, "no-mtp-mask"), None, right_kernel))
    monkeypatch.setattr(slow_grid, "VARIANTS", ((64, True),) * 3)
    monkeypatch.setattr(slow_grid, "compile_kernel", lambda kernel: next(makers)(kernel))
    comparisons, faults = slow_grid.check(Item("narrow", "bf16", 3, 2))
    assert comparisons == 3 and all(fault.startswith("pages of 64, causal: ") for fault in faults)
    assert "off by" in faults[0] and "TypeError" in faults[-1], "nothing is wrong with the right kernel"
