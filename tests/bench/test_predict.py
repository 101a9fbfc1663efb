import json

import pytest

from bench import predict, timeline
from bench.prediction import config_of, units_to_execute
from bench.prediction import predict as predict_one
from bench.workloads import IMBALANCED, USER_WORKLOADS, WORKLOADS, Workload
from ptx_emulator.timing import Constants
from ptx_emulator.timing.variants import disputed

SMALL = Workload.uniform("fp8", 16, 4, 2048, 2)


@pytest.fixture(scope="module")
def small():
    return predict_one(SMALL, Constants.of())


def test_a_prediction_adds_up(small):
    assert small.total == pytest.approx(2.2 + small.decode + small.merge)
    keys, query_and_output = 2048 * 576, 4 * 16 * (576 + 512 * 2)
    assert small.hbm == pytest.approx(2 * (keys + query_and_output) / 7.2e12 * 1e6)
    assert small.target == pytest.approx(1.05 * max(small.hbm, small.mma) + 8)
    assert small.decode > max(small.hbm, small.mma, small.port)
    for waits in ("softmax <- score full (mma)", "scores <- keys full (tma)", "output <- probs full (arrive)"):
        assert any(name.startswith(waits) for name in small.waits), small.waits
    for role in ("scores", "output", "load", "softmax"):
        assert sum(share for name, share in small.waits.items() if name.startswith(f"{role} ")) == pytest.approx(
            1, abs=0.1
        )


def test_a_resource_that_is_relieved_never_costs_much(small):
    faster = predict_one(SMALL, Constants.of(hbm=14.4e12))
    slower = predict_one(SMALL, Constants.of(tma_8k=4000, tma_4k=4000, tma_16k=4000))
    assert faster.total < 1.02 * small.total
    assert slower.total > small.total + 1


def test_the_fifteen_workloads():
    assert len(WORKLOADS) == 15
    assert len({w.name for w in WORKLOADS}) == 15
    assert IMBALANCED.batch == 16
    assert WORKLOADS[4].kv_bytes == 16 * 81920 * 576


def test_the_shapes_of_servers_are_chosen_by_an_option():
    assert not set(USER_WORKLOADS) & set(WORKLOADS)
    assert predict.parse(["--users"]).workloads == list(USER_WORKLOADS)
    assert [w.batch for w in predict.parse(["--users", "--only", "fp8 h128 q1"]).workloads] == [256, 512]


def test_executed_units_include_the_longest_and_the_last():
    config = config_of(IMBALANCED)
    units, active = units_to_execute(config, IMBALANCED.kv_lens)
    assert units[0] == 0
    assert units[-1] == active - 1


def test_the_command_prints_a_table_json_and_ratios(tmp_path, capsys):
    path = tmp_path / "found.json"
    arguments = ["--dtype", "fp8", "--kv-len", "2048", "--batch", "2"]
    assert predict.main([*arguments, "--json", str(path)]) == 0
    assert "modelled" in capsys.readouterr().out
    rows = json.loads(path.read_text())["predictions"]
    assert [row["workload"] for row in rows] == [SMALL.name]
    assert predict.main([*arguments, "--against", str(path), "--waits", "--sensitivity", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["predictions"][0]["waits"]
    assert {row["name"] for row in found["variants"]} == {name for name, _ in disputed()}
    assert {"tmem 64/64 B/clk", "code from L2", "ws_floor 32"} <= {row["name"] for row in found["variants"]}
    assert all(row["kind"] == "disputed" and row["total"] > 0 for row in found["variants"])
    out = capsys.readouterr().out
    assert "1.00" in out.splitlines()[1]
    assert "waits" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "no workload's name contains it"),
        (["--set", "tmen=3"], "constant 'tmen'"),
        (["--clock", "fast"], "could not convert"),
        (["--json", "/nowhere/x.json"], "its folder does not exist"),
        (["--timeline", "x.png:0:1"], "must be FILE.svg:BEGIN:END"),
        (["--against", "/nowhere/y.json"], "No such file"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_status:
        predict.main(arguments)
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err


def test_traces_and_pictures(tmp_path):
    trace, picture = tmp_path / "trace.json", tmp_path / "start.svg"
    window = timeline.Window.parse(f"{picture}:0:8000")
    timeline.write(SMALL, Constants.of(), "auto", str(trace), [window])
    events = json.loads(trace.read_text())["traceEvents"]
    tracks = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"tensor core", "TMA", "softmax 0", "correction 4", "load 9"} <= tracks
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")
    assert {event["ph"] for event in events} == {"M", "X", "b", "e", "C"}
    text = picture.read_text()
    assert text.startswith("<svg") and "TMA loads in flight" in text


def test_workloads_are_chosen_by_name_or_part_of_it():
    names = [w.name for w in predict.parse(["--only", "fp8 h16 q4 80K b1,h128 q1 8K b"]).workloads]
    assert names == ["fp8 h16 q4 80K b1", *(f"fp8 h128 q1 8K b{n}" for n in (1, 32, 64)), "bf16 h128 q1 8K b32"]
    assert len(predict.parse([]).workloads) == 15
