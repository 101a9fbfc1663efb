"""First light's command: a rehearsal in its short form, a machine on which it cannot run, Ctrl-C, and the report."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import clock, decode
from bench.workloads import WORKLOADS
from scripts.first_light import __main__ as first_light
from scripts.first_light import assumptions, commands, correctness, machine, move, report, speed
from scripts.first_light.machine import Gpu, Problem
from wrappers import machines

B200 = Gpu("NVIDIA B200", (10, 0), "00", 13000, "13.0")
ROOT = Path(__file__).parents[2]
CLOCKS = speed.Clocks(False, {}, Path("no such file"), 60)
HOPPER = dataclasses.replace(B200, name="NVIDIA H100", capability=(9, 0))


class Clock:
    """Stands in for `commands.run`: bench.clock --list and the first time that is asked are commands as on a GPU, the
    times after that come from bench.clock in this process, where its imports and kernels are already."""

    def __init__(self):
        self.run, self.asked = commands.run, 0

    def __call__(self, command, limit):
        if tuple(command[:3]) != speed.BENCH or "--list" in command:
            return self.run(command, limit)
        self.asked += 1
        if self.asked == 1:
            return self.run(command, limit)
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
            patch.setattr(os, "environ", os.environ.copy())
            status = clock.main(command[3:])
        return commands.Ended(status, output.getvalue(), "")


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """(exit status, JSON, Markdown) of the short rehearsal."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("light") / "new"
    with pytest.MonkeyPatch.context() as patch:
        timed = Clock()
        patch.setattr(commands, "run", timed)
        status = first_light.main(["--rehearse", "--short", "--out", str(folder)])
    assert timed.asked == 5, "the default, a choice, the prediction, the time, the tensors for the peers"
    assert os.environ.pop(machines.VARIABLE) == str(folder / "machine.json")  # what its commands are run with
    assert dict(os.environ) == before
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["constants.json", "first-light.json", "first-light.md", "machine.json"]
    return status, json.loads((folder / "first-light.json").read_text()), (folder / "first-light.md").read_text()


def test_a_rehearsals_report_is_complete(rehearsal):
    status, content, _ = rehearsal
    assert status == 0 and (content["kind"], content["state"]) == ("rehearsal", "complete")
    rows = {row["row"]: row["result"] for row in content["assumptions"]}
    assert rows == {row.number: "holds" for row in assumptions.ROWS}
    assert all(kernel["result"] == "holds" for row in content["assumptions"] for kernel in row["kernels"])
    results = {row["check"]: (row["result"], row["rows"]) for row in content["correctness"]}
    assert results == {
        "validate bf16, one small shape": ("passed", 1),
        "conformance kernels": ("passed", 12),
        "device tests": ("not applicable here", 0),
        **{f"compute-sanitizer {tool}": ("not applicable here", 0) for tool in correctness.SANITIZERS},
    }
    constants = {row["constant"]: row["result"] for row in content["constants"]}
    assert set(constants.values()) == {"measured", "observed"} and {"mma_macs", "clock", "launch"} < set(constants)
    (row,) = content["speed"]
    assert row["result"] == "as predicted" and row["timed_us"] == pytest.approx(row["predicted_us"], rel=0.01)
    assert row["timed_us"] > 1
    assert content["started"] < content["ended"]
    assert content["command"].startswith("bash scripts/first_light.sh --rehearse --short --out ")
    assert [row["result"] for row in content["switches"]] == ["not needed"] * 3
    assert [row["result"] for row in content["tuning"]][::2] == ["default", "best"]
    assert [(row["peer"], row["result"]) for row in content["peers"]] == [
        ("tokenspeed a stand-in", "timed"), ("flashinfer a stand-in", "timed"),
    ]  # fmt: skip


def test_a_rehearsals_report_says_that_it_is_one(rehearsal):
    text = rehearsal[2]
    assert text.startswith("# First light: rehearsal\n\n**A rehearsal.**")
    assert text.count("| holds |") == 19 and "Not reached" not in text


def test_every_row_of_the_document_is_checked():
    text = (ROOT / "docs" / "silicon-assumptions.md").read_text()
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert numbers == [row.number for row in assumptions.ROWS] == list(range(1, 17))


@pytest.mark.parametrize(
    "gpu,kinds",
    [
        ("no CUDA GPU", ["no GPU"]),
        (B200, []),
        (HOPPER, ["architecture"]),
        (dataclasses.replace(B200, cuda=12040), ["driver"]),
        (dataclasses.replace(B200, capability=(10, 3), cuda=12080), ["driver"]),
        (dataclasses.replace(B200, torch_cuda=None), ["torch"]),
        (dataclasses.replace(B200, others=("7 python", "8 trainer")), ["busy"]),
    ],
)
def test_a_machine_on_which_it_cannot_run(gpu, kinds, tmp_path, capsys, monkeypatch):
    """One line each, which says what to do; exit status 2 and no report."""
    monkeypatch.setattr(machine.shutil, "which", lambda tool: f"/bin/{tool}")
    found = machine.problems(gpu)
    assert [problem.kind for problem in found] == kinds
    assert all(": " in problem.text and "\n" not in problem.text for problem in found)
    if not kinds:
        return
    monkeypatch.setattr(machine, "find_gpu", lambda: gpu)
    assert first_light.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"first light: {found[0].text}\n" and not (tmp_path / "out").exists()


def test_missing_tools_are_told_and_stop_nothing(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda tool: None)
    found = machine.problems(B200)
    assert [problem.text.split()[0] for problem in found] == ["nvcc", "ptxas", "compute-sanitizer"]
    assert machine.stops(found, anyway=False) == []


def test_what_anyway_overrides():
    kinds = ["no GPU", "architecture", "driver", "torch", "busy", "tool"]
    found = [Problem(kind, kind) for kind in kinds]
    assert [p.kind for p in machine.stops(found, anyway=False)] == kinds[:-1]
    assert [p.kind for p in machine.stops(found, anyway=True)] == ["no GPU", "driver", "torch"]


def test_other_processes_and_clocks_are_those_of_this_gpu(tmp_path, monkeypatch):
    """nvidia-smi lists all GPUs of a machine."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in\n*compute-apps*) echo "GPU-ab-cd, 7, /x/python"; echo "GPU-ff-00, 8, /x/other";;\n'
        '*) echo "GPU-ff-00, 1 MHz, 2 MHz, 3 MHz, 4 W, 5"; echo "GPU-ab-cd, 6 MHz, 7 MHz, 8 MHz, 9 W, 10";;\nesac\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.others_on("abcd") == ("7 python",) and machine.others_on("1234") == ()
    assert machine.clocks("abcd")["clocks.sm"] == "6 MHz" and machine.clocks("") == {}
    found = machine.find_gpu(an_idle_gpu)
    assert found.others == ("7 python",) and "uuid" not in machine.describe(found)["gpu"]


def an_idle_gpu() -> Gpu:
    return dataclasses.replace(B200, uuid="abcd")


class OneGpu:
    """The part of the driver's interface that says what the machine has: a B300 with a driver for CUDA 13.1."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        answers = {
            "cuDeviceGetCount": 1, "cuDeviceGet": 0, "cuDevicePrimaryCtxRetain": 1, "cuDriverGetVersion": 13010,
            "cuDeviceGetName": b"NVIDIA B300".ljust(256, b"\0"),
        }  # fmt: skip
        if name in answers:
            return lambda *given: (self.real.CUresult.CUDA_SUCCESS, answers[name])
        return getattr(self.real, name)

    def cuInit(self, flags):
        return (self.real.CUresult.CUDA_SUCCESS,)

    def cuCtxSetCurrent(self, context):
        return (self.real.CUresult.CUDA_SUCCESS,)

    def cuDeviceGetAttribute(self, attribute, device):
        return self.real.CUresult.CUDA_SUCCESS, 10 if attribute.name.endswith("MAJOR") else 3

    def cuDeviceGetUuid(self, device):
        return self.real.CUresult.CUDA_SUCCESS, SimpleNamespace(bytes=bytes(range(16)))


def test_the_driver_is_asked_what_the_gpu_is(monkeypatch):
    monkeypatch.setattr(machine.crosscheck_gpu, "driver", OneGpu(pytest.importorskip("cuda.bindings.driver")))
    monkeypatch.setattr(machine, "_cuda_of_torch", lambda: "13.0")
    assert machine.ask_driver() == Gpu("NVIDIA B300", (10, 3), bytes(range(16)).hex(), 13010, "13.0")
    monkeypatch.setattr(machine.crosscheck_gpu, "driver", None)
    assert machine.ask_driver() == "cuda-python is not installed"


def test_the_gpus_time_is_that_of_graph_replays(monkeypatch, capsys):
    timing = {"events": decode.Timing(9.0, 9.0, 9.0), "graph": decode.Timing(11e-6, 10e-6, 14e-6)}
    monkeypatch.setattr(decode, "bench", lambda workload, backend, warmup, repeats: timing)
    assert clock.main([WORKLOADS[0].name, "--clock", "gpu"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"median_us": 11.0, "low_us": 10.0, "high_us": 14.0}
    predicted = commands.Ended(0, json.dumps({"median_us": 9.0}), "")
    row = speed.outcome(predicted, commands.Ended(0, printed, ""))
    assert (row["result"], row["ratio"], row["spread_us"]) == ("OFF", 1.222, [10.0, 14.0])
    row = speed.outcome(predicted, commands.Ended(-9, "", "no answer within 3 s"))
    assert row == {"result": "crashed", "predicted_us": 9.0, "about": "no answer within 3 s"}
    row = speed.outcome(commands.Ended(1, "", "exit status 1: no"), commands.Ended(0, printed, ""))
    assert (row["result"], row["timed_us"], row["about"]) == ("crashed", 11.0, "prediction: exit status 1: no")
    assert [row["result"] for row in speed.run_all([], CLOCKS)] == ["crashed"]
    assert speed.workloads(False) == [workload.name for workload in WORKLOADS]


def test_on_another_architecture_the_decode_kernel_is_not_run():
    why = first_light.why_no_kernel(machine.problems(HOPPER))
    rows = [correctness.run_one(check, 60)[0] for check in correctness.checks(False, False, why) if check.why_not]
    rows += speed.run_all([w.name for w in WORKLOADS], CLOCKS, why)
    assert len(rows) == 7 + len(WORKLOADS) and {row["result"] for row in rows} == {"not applicable here"}
    assert "NVIDIA H100" in rows[0]["about"][0] and "NVIDIA H100" in rows[-1]["about"]


def test_a_workload_off_its_prediction_is_marked():
    assert speed.compared(10.0, 11.4, 11.0, 12.0)["result"] == "as predicted"
    assert [speed.compared(10.0, timed, 0.0, 0.0)["result"] for timed in (11.6, 8.4)] == ["OFF", "OFF"]


def test_predictions_take_the_constants_that_were_measured(tmp_path, monkeypatch):
    """And a rehearsal's GPU those that it pretends to have."""
    commands_run = []
    monkeypatch.setattr(speed.commands, "run", lambda command, limit: commands_run.append(command[3:]))
    file = tmp_path / "constants.json"
    for is_rehearsal, pretended in ((True, {"alu": 0.25}), (False, {})):
        clocks = speed.Clocks(is_rehearsal, pretended, file, 60)
        clocks.predict("w"), clocks.time("w")
        file.write_text("{}")
    assert commands_run == [
        ["w", "--clock", "model"], ["w", "--clock", "model", "--set", "alu=0.25"],
        ["w", "--clock", "model", "--constants", str(file)], ["w", "--clock", "gpu"],
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        clock.main([WORKLOADS[0].name, "--constants", str(tmp_path / "absent")])


@pytest.mark.parametrize("given", [["--pretend", "alu=1"], ["--rehearse", "--pretend", "alu"]])
def test_only_a_rehearsal_pretends(given, capsys):
    with pytest.raises(SystemExit):
        first_light.parse(given)
    assert "--pretend" in capsys.readouterr().err


def made(tmp_path, problems=()):
    return report.Report(tmp_path, "command", machine.describe(B200), problems, False)


def test_a_report_of_a_device_marks_what_is_wrong(tmp_path):
    result = made(tmp_path, ["nvcc is not on PATH"])
    kernel = {"kernel": "a | b", "result": "differs", "about": "device: 1 word"}
    result.add("assumptions", {"row": 1, "relies_on": "this", "result": "differs", "kernels": [kernel]})
    row = {
        "workload": "w",
        "predicted_us": 10.0,
        "spread_us": None,
        "timed_us": None,
        "result": "crashed",
        "about": "why",
    }
    result.add("speed", row)
    assert not result.is_good
    text = (tmp_path / "first-light.md").read_text()
    assert text.startswith("# First light: NVIDIA B200\n") and "rehearsal" not in text.lower()
    assert "| 1 | this | a \\| b | **differs** | device: 1 word |" in text and "| **crashed** | why |" in text
    assert "Note: nvcc is not on PATH." in text and "State: running" in text


SLEEPER = "import sys, time; print('waits', flush=True); time.sleep(60)"


def test_a_check_that_hangs_or_dies_ends_alone():
    hangs = correctness.Check("hangs", ("-c", SLEEPER), correctness.validated)
    dies = correctness.Check("dies", ("-c", "import os; print('last words'); os._exit(3)"), correctness.validated)
    rows = list(correctness.run_all([hangs, dies], limit=0.5))
    assert [(row["result"], row["about"]) for row in rows] == [
        ("crashed", ["no answer within 0.5 s"]),
        ("crashed", ["exit status 3: last words"]),
    ]


@pytest.mark.parametrize("status,result", [(0, "passed"), (9, "FAILED"), (1, "FAILED"), (3, "crashed")])
def test_compute_sanitizer(status, result, tmp_path, monkeypatch):
    """Where it is installed it runs the kernel; its own exit status is told from that of what it runs."""
    program = tmp_path / "compute-sanitizer"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho "ERROR SUMMARY"\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    row, _ = correctness.run_one(correctness.sanitizer("racecheck", False, ""), 60)
    assert row["result"] == result and ("ERROR SUMMARY" in "".join(row["about"])) == (status != 0)
    assert (tmp_path / "arguments").read_text().startswith("--tool racecheck --error-exitcode 9 ")


def test_ctrl_c_keeps_what_is_done(tmp_path):
    """The signal comes while a check runs, which hangs; the rows before it are in the report."""
    script = (
        "import signal, sys\nfrom scripts.first_light import __main__ as first_light, assumptions, correctness, move\n"
        # A process in the background of a script is started with the signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "assumptions.ROWS = assumptions.ROWS[6:7]\n"
        f"check = correctness.Check('hangs', ('-c', {SLEEPER!r}), correctness.validated)\n"
        "correctness.checks = lambda *given: [check]\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit(first_light.main(['--rehearse', '--short', '--out', {str(tmp_path)!r}]))\n"
    )
    (tmp_path / "run.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    for line in child.stderr:
        if line.startswith("[1/") and "] assumptions" in line:
            break
    child.send_signal(signal.SIGINT)
    shown, _ = child.communicate(timeout=120)
    content = json.loads((tmp_path / "first-light.json").read_text())
    assert child.returncode == 130 and shown.startswith("interrupted: ")
    assert content["state"] == "interrupted" and [row["row"] for row in content["assumptions"]] == [7]
    assert content["correctness"] == [] or content["correctness"][0]["result"] == "interrupted"
    assert content["speed"] == [] and "Not reached." in (tmp_path / "first-light.md").read_text()


def test_wrong_arguments_are_exit_status_2(capsys):
    for arguments in (["--limit", "0"], ["--out", "/proc/none"], ["--fast"]):
        with pytest.raises(SystemExit) as stopped:
            first_light.main(arguments)
        shown = capsys.readouterr().err
        assert stopped.value.code == 2 and arguments[0] in shown and shown.count("\n") == 1


def test_preparing_reports_its_own_failure(monkeypatch, capsys):
    broken = dataclasses.replace(move.dynamic_shared_memory(), ptx="nothing")
    monkeypatch.setattr(first_light.move, "dynamic_shared_memory", lambda: broken)
    first_light.prepare([])
    assert capsys.readouterr().err.startswith("first light: preparing the emulator: ")


def test_the_committed_rehearsal_is_one_of_this_commands_reports():
    content = json.loads((ROOT / "docs" / "first-light-rehearsal.json").read_text())
    assert (ROOT / "docs" / "first-light-rehearsal.md").read_text() == report.markdown(content) + "\n"
    assert (content["kind"], content["state"]) == ("rehearsal", "complete") and not content["commit"].endswith("+")
    assert [row["row"] for row in content["assumptions"]] == [row.number for row in assumptions.ROWS]
    assert all(content[section] for section in report.SECTIONS)
