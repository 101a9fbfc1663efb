"""`python -m ptx_emulator run`: schedules compared bit for bit, and what is said of a kernel that depends on them."""

import pytest

from ptx_emulator.__main__ import main

# Warp 1 reads what warp 0 writes, or does not: it depends on who comes first.
RACE = "sync='@%p1 bra X; X: bar.warp.sync 0xffffffff;'"


def test_a_right_kernel(command):
    status, out, err = command("run", "--seeds", "3")
    assert status == 0 and "8 schedules: right, bit for bit the same" in out and out.count("ok, ") == 8
    assert "[8/8] adversarial, seed 2: ok" in err


def test_a_kernel_that_depends_on_the_schedule(command):
    status, found = command.json("run", RACE, "--seeds", "3", "--orders", "in_order,random,adversarial")
    assert status == 1 and found["clean"] is False and len(found["schedules"]) == 7
    assert {row["wrong"] for row in found["schedules"]} == {"not reversed"}
    assert any(row["differs"].startswith("out[") and "bytes in all" in row["differs"] for row in found["schedules"])


def test_an_error_is_a_finding(command):
    status, out, _ = command("run", "sync='bar.sync 0, 128;'", "--orders", "late")
    assert status == 1 and "Deadlock" in out


def test_a_time_limit(command):
    status, out, _ = command("run", "sync='W: bra W;'", "--orders", "in_order", "--time-limit", "0.2")
    assert status == 1 and ("LimitExceeded" in out or "Deadlock" in out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "required: CASE.py"),
        (["run", "nowhere.py"], "nowhere.py: no such file"),
        (["run", __file__], "has no function `arguments`"),
        (["run", "x.py", "--orders", "late,early"], "'early': must be of in_order, late"),
        (["run", "x.py", "--seeds", "0"], "'0': must be an integer of at least 1"),
        (["run", "x.py", "--time-limit", "-1"], "'-1': must be a positive number of seconds"),
        (["run", "x.py", "kv_len"], "'kv_len': must be name=value"),
        (["check", "x.py", "--suppress", "nowhere.ini"], "suppress='nowhere.ini': cannot be read"),
        (["run", "x.py", "--dump", "/nowhere"], "/nowhere: expected one *_clean.mlir, found 0"),
        (["coverage", "/nowhere.ptx"], "/nowhere.ptx"),
        (["look"], "'look' is no command: give one of run, check"),
        ([], "no command"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, capsys):
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err
    assert status == 2 and message in said and said.count("\n") == 1


def test_a_case_that_cannot_be_run(command, tmp_path, capsys):
    status, _, err = command("run", "sync='wgmma.fence.sync.aligned;'")
    assert status == 2 and "wgmma" in err
    status, _, err = command("run", "sink=1")
    assert status == 2 and "sink" in err
    (tmp_path / "broken.py").write_text("def arguments(): return {}['x']")
    assert main(["run", str(tmp_path / "broken.py")]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1] == "python -m ptx_emulator run: error: KeyError: 'x'"
