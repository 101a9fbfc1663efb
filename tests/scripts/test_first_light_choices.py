"""First light's switches, tuning and peers: what is judged, written and compared; the processes are stand-ins."""

from __future__ import annotations

import json

import pytest

from scripts.first_light import commands, peers, pytest_json, speed, switches, tuning
from scripts.first_light.__main__ import judged
from scripts.first_light.switches import Table
from scripts.first_light.tuning import Target
from wrappers import machines

TARGET = Target("fp8 h16 q4 80K b4", "fp8", 64)


class Rows:
    """A report, as far as `judged` looks."""

    def __init__(self, rows):
        self.content = {"assumptions": rows}


def test_what_does_not_hold_is_avoided_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setenv(machines.VARIABLE, "before")
    rows = [{"row": 4, "result": "holds"}, {"row": 5, "result": "differs"}, {"row": 6, "result": "crashed"}]
    found = list(judged(Rows(rows), Table(tmp_path, "sm_103a")))
    assert [row["result"] for row in found] == ["not needed", "NEEDED", "NEEDED"]
    assert machines.machine_of("sm_103a").avoid == ("stores_over_tma", "nan_in_keys")
    assert machines.machine_of("sm_100a") == machines.Machine()
    unknown = list(switches.judge([{"row": 4, "result": "not applicable here"}]))
    assert [row["result"] for row in unknown] == ["unknown"] * 3


@pytest.fixture
def clocks(monkeypatch):
    """Times by what the table of a trial says, microseconds; None: the command dies."""

    def install(time_of):
        def run(command, limit):
            (row,) = json.loads(open(command[command.index("--table") + 1]).read())["sm_100a"]["tuning"] or [{}]
            time = time_of({name: value for name, value in row.items() if name not in ("dtype", "most_rows")})
            return (
                commands.Ended(3, "", "died")
                if time is None
                else commands.Ended(0, json.dumps({"median_us": time}), "")
            )

        monkeypatch.setattr(speed.commands, "run", run)
        return speed.Clocks(False, {}, None, 60)

    return install


def tuned(tmp_path, clocks, time_of) -> tuple[list[dict], list[dict]]:
    table = Table(tmp_path, "sm_100a")
    rows = list(tuning.run_all([TARGET], clocks(time_of), table, False))
    return rows, table.content["tuning"]


def test_what_gains_is_tried_together_and_written(tmp_path, clocks):
    def time_of(choice):
        if choice.get("stages"):
            return None
        return (
            20
            - 2 * (choice.get("path") == "wide")
            - (choice.get("uncut_tiles") == 4)
            - 9 * ("rescale_threshold" in choice)
        )

    rows, written = tuned(tmp_path, clocks, time_of)
    assert written == [{"dtype": "fp8", "most_rows": 64, "uncut_tiles": 4, "path": "wide"}]
    assert {row["choice"]: row["result"] for row in rows[:-1]} == {
        "the default": "default", "path wide": "faster", "uncut_tiles 1": "slower", "uncut_tiles 4": "faster",
        "stages [10, 4]": "crashed", "rescale_threshold 8.0": "changes results: not written",
        "uncut_tiles 4, path wide": "faster",
    }  # fmt: skip
    assert (rows[-1]["result"], rows[-1]["timed_us"]) == ("best", 17)


def test_noise_changes_nothing_and_a_default_that_dies_ends_its_target(tmp_path, clocks):
    rows, written = tuned(tmp_path, clocks, lambda choice: 20 - 0.5 * bool(choice))
    assert written == [] and (rows[-1]["choice"], rows[-1]["result"]) == ("the default", "best")
    rows, written = tuned(tmp_path, clocks, lambda choice: None if not choice else 5)
    assert written == [] and {row["result"] for row in rows if row["choice"] == "the default"} == {"crashed"}
    assert [row["result"] for row in tuning.run_all([TARGET], None, None, False, "a Hopper")] == ["not applicable here"]


def test_peers_that_are_not_there(monkeypatch):
    ours = {"workload": "w", "timed_us": 10.0}
    assert [row["about"] for row in peers.run_all([ours], None, False, 60)] == ["no --peers PYTHON was given"]
    assert [row["about"] for row in peers.run_all([ours], "python", False, 60, "a Hopper")] == ["a Hopper"]
    absent = peers.compared(ours, "flashinfer", commands.Ended(3, "flashinfer is not installed there", ""))
    assert (absent["result"], absent["about"]) == ("not applicable here", "flashinfer is not installed there")
    died = peers.compared(ours, "flashinfer", commands.Ended(-9, "", "no answer within 3 s"))
    assert (died["result"], died["about"]) == ("crashed", "no answer within 3 s")
    times = {"version": "1", "median_us": 25.0, "low_us": 24.0, "high_us": 26.0}
    timed = peers.compared(ours, "flashinfer", commands.Ended(0, "a warning\n" + json.dumps(times), ""))
    assert (timed["peer"], timed["ratio"], timed["spread_us"]) == ("flashinfer 1", 2.5, [24.0, 26.0])
    monkeypatch.setattr(peers.commands, "run", lambda command, limit: commands.Ended(2, "", "exit status 2: no"))
    assert [row["result"] for row in peers.run_all([ours], "python", False, 60)] == ["crashed"]


def test_a_python_without_the_peer_says_so(tmp_path):
    ended = commands.run([peers.sys.executable, str(peers.CALL), "flashinfer", "none", "--device", "cpu"], 60)
    assert ended.status == peers.NOT_INSTALLED and "flashinfer is not installed there" in ended.output


def test_what_came_of_tests_is_written(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert False\n"
        "@pytest.mark.skip(reason='no GPU')\ndef test_c(): pass\n"
    )
    file = tmp_path / "found.json"
    options = ["-q", "-p", "no:cacheprovider", "-p", pytest_json.__name__, "--json", str(file)]
    ended = commands.run([peers.sys.executable, "-m", "pytest", *options, str(tmp_path / "test_it.py")], 120)
    found = {name: [test.split("::")[-1] for test in tests] for name, tests in json.loads(file.read_text()).items()}
    assert ended.status == 1 and found["passed"] == ["test_a"] and found["failed"] == ["test_b"]
    assert len(found["skipped"]) == 1 and found["skipped"][0].startswith("test_c: ") and "no GPU" in found["skipped"][0]
