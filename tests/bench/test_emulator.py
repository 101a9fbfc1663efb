from __future__ import annotations

import json

import pytest

from bench import emulator

TINY = ["--batch", "1", "--num-heads", "4", "--seq-len-q", "2", "--kv-len", "70", "--repeats", "1"]


def test_counts_do_not_depend_on_the_order(tmp_path, capsys):
    """Two orders of one tiny call: the same work, in the table and in the JSON."""
    file = tmp_path / "speed.json"
    assert emulator.main([*TINY, "--order", "in_order,late", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    first, second = found["rows"]
    assert (first["order"], second["order"]) == ("in_order", "late")
    assert first["tcgen05_macs"] == second["tcgen05_macs"] > 4 * 2 * 70 * (576 + 512)
    assert first["warp_instructions"] == pytest.approx(second["warp_instructions"], rel=0.05)
    for row in found["rows"]:
        assert row["instructions_per_second"] == row["warp_instructions"] / row["cpu_seconds"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == found["machine"] and len(lines) == 4
    assert str(first["warp_instructions"]) in lines[2]


def test_json_alone_on_stdout(monkeypatch, capsys):
    row = emulator.Speed("bf16", 1, 4, 2, 70, "in_order", 3_000_000, 10**9, 1.5, 2.0)
    monkeypatch.setattr(emulator, "measure", lambda *arguments: row)
    assert emulator.main([*TINY, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["instructions_per_second"] == 2e6


@pytest.mark.parametrize(
    "given, message",
    [
        (["--order", "backwards"], "--order backwards: must be one of in_order, "),
        (["--dtype", "bf16,fp4"], "--dtype fp4: must be one of bf16, "),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--kv-len", "0"], "--kv-len 0: must be at least 1"),
    ],
)
def test_wrong_arguments(given, message, capsys):
    with pytest.raises(SystemExit):
        emulator.main(given)
    assert message in capsys.readouterr().err
