from __future__ import annotations

import json

import pytest

from bench import emulator

TINY = ["--batch", "1", "--num-heads", "3", "--seq-len-q", "2", "--kv-len", "70", "--repeats", "1"]


def test_counts_do_not_depend_on_the_order(tmp_path, capsys):
    """Two orders of one tiny call: the same work, in the table and in the JSON."""
    file = tmp_path / "speed.json"
    assert emulator.main([*TINY, "--order", "in_order,late", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    first, second = found["rows"]
    assert (first["order"], second["order"]) == ("in_order", "late")
    assert first["tcgen05_macs"] == second["tcgen05_macs"] > 3 * 2 * 70 * (576 + 512)
    assert first["warp_instructions"] == pytest.approx(second["warp_instructions"], rel=0.05)
    for row in found["rows"]:
        assert row["instructions_per_second"] == row["warp_instructions"] / row["cpu_seconds"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == found["machine"] and len(lines) == 4
    assert str(first["warp_instructions"]) in lines[2]


def test_json_alone_on_stdout(monkeypatch, capsys):
    row = emulator.Speed("bf16", 1, 4, 2, 70, "auto", "in_order", 3_000_000, 10**9, 1.5, 2.0)
    monkeypatch.setattr(emulator, "measure", lambda *arguments: row)
    assert emulator.main([*TINY, "--json", "-"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["rows"]
    assert found["instructions_per_second"] == 2e6 and found["checks_ratio"] is None


def test_checks_are_measured_beside_the_plain_run(monkeypatch, tmp_path, capsys):
    """Both are run in turn; the ratio is that of the least times of each."""
    launched, launch = [], emulator.emulated.launch

    def noted(*arguments, **options):
        launched.append(options["checks"])
        return launch(*arguments, **options)

    clock = iter([0, 2, 0, 7, 0, 1.5, 0, 8])
    monkeypatch.setattr(emulator.emulated, "launch", noted)
    monkeypatch.setattr(emulator.time, "process_time", lambda: next(clock))
    file = tmp_path / "speed.json"
    options = [*"--num-heads 16 --seq-len-q 8 --path narrow --checks --repeats 2 --json".split(), str(file)]
    assert emulator.main([*TINY[:-2], *options]) == 0
    assert launched == [False, True] * 3
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["path"], row["cpu_seconds"], row["checked_cpu_seconds"]) == ("narrow", 1.5, 7)
    assert row["checks_ratio"] == 7 / 1.5 and row["hazards"] == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-3:] == ["7.00", "4.67", "0"]


@pytest.mark.parametrize(
    "given, message",
    [
        (["--order", "backwards"], "--order backwards: must be one of in_order, "),
        (["--dtype", "bf16,fp4"], "--dtype fp4: must be one of bf16, "),
        (["--path", "broad"], "--path broad: must be one of auto, "),
        (["--repeats", "0"], "--repeats: '0': must be an integer of 1.."),
        (["--kv-len", "0"], "--kv-len: '0': must be an integer of 1.."),
    ],
)
def test_wrong_arguments(given, message, capsys):
    with pytest.raises(SystemExit):
        emulator.main(given)
    assert message in capsys.readouterr().err
