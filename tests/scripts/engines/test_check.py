"""What scripts/test_engines.sh calls a pass, on made-up runs; the engines are not run here."""

from __future__ import annotations

import json
import sys

import pytest

from scripts.engines import check
from scripts.engines.check import RUNS, Run, compare, faults_of

KEY = {"tokens": [[7, 8, 9], [3, 2, 1]], "logprobs": [[-1.0, -2.0, -1.5], [-0.5, -0.1, -3.0]]}
MARGINS = [[1.0, 2.0, 0.3], [1.0, 1.0, 1.0]]
KEY["margins"] = MARGINS
OURS = {"calls": 6, "ragged": 2, "launches": 6, "failed": 0, "lowest_db": 54.0, "engine": "engine 1", "seconds": 1.0}
EMULATED = Run("engine", "module", ("--speculate",), "emulator")


def run_of(tokens=KEY["tokens"], logprobs=KEY["logprobs"], **changes):
    return {"tokens": tokens, "logprobs": logprobs, **OURS, **changes}


def test_the_same_tokens():
    found = compare(run_of(logprobs=[[-1.1, -2.0, -1.5], [-0.5, -0.1, -2.9]]), KEY, MARGINS, 0.2)
    assert found.tokens == (3, 3) and found.largest == pytest.approx(0.1) and not found.faults


def test_parting_at_a_near_tie_is_no_fault_and_what_follows_is_not_compared():
    found = compare(run_of([[7, 8, 5], [3, 2, 1]], [[-1.0, -2.0, -9.0], [-0.5, -0.1, -3.0]]), KEY, MARGINS, 0.2)
    assert found.tokens == (2, 3) and found.largest == 0.0 and not found.faults


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tokens": [[7, 5, 9], [3, 2, 1]]}, "prompt 0 parts at token 1, where fp32 is sure by 2.00"),
        ({"logprobs": [[-1.3, -2.0, -1.5], [-0.5, -0.1, -3.0]]}, "a log-probability differs by 0.30"),
        ({"calls": 0, "launches": 0}, "the backend was never called"),
        ({"failed": 1}, "1 of 6 calls are wrong"),
        ({"launches": 5}, "5 kernels ran in 6 calls"),
        ({"ragged": 0}, "no call was ragged"),
    ],
)
def test_faults(changes, fault):
    assert faults_of(EMULATED, run_of(), KEY) == []
    assert faults_of(EMULATED, run_of(**changes), KEY) == [fault]


def test_every_kind_of_run_is_there():
    assert sum(run.is_mutant for run in RUNS) == 2
    assert {(run.backend, run.cache) for run in RUNS if run.is_ours} == {
        ("torch", "bf16"), ("emulator", "bf16"), ("emulator", "fp8"),
    }  # fmt: skip
    assert {run.needs for run in RUNS} == {"transformers", "vllm", "sglang"}


@pytest.mark.parametrize(("mutant_differs", "status"), [(True, 0), (False, 1)])
def test_the_command_fails_where_a_mutant_passes(monkeypatch, capsys, mutant_differs, status):
    def execute(run, folder, number):
        if run.needs == "sglang":
            return "skipped: sglang is not installed"
        tokens = [[7, 5, 9], [3, 2, 1]] if run.is_mutant and mutant_differs else KEY["tokens"]
        return {**KEY, **run_of(tokens), "margins": MARGINS}

    monkeypatch.setattr(check, "execute", execute)
    monkeypatch.setattr(check, "write_model", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["check"])
    assert check.main() == status
    out, err = capsys.readouterr()
    assert out.count("| passed |") == 5 and ("fails, as it must" in out) == mutant_differs
    assert err.count("sglang is not installed") == 2


def test_a_run_that_cannot_be_had(tmp_path, monkeypatch):
    assert check.execute(Run("x", "module", needs="no_such_engine"), tmp_path, 0) == (
        "skipped: no_such_engine is not installed"
    )
    assert "no module named" in check.execute(Run("x", "no_such_module", needs="json"), tmp_path, 1).lower()
    module = tmp_path / "writes.py"
    module.write_text("import json, sys\njson.dump({'calls': 1}, open(sys.argv[sys.argv.index('--out') + 1], 'w'))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = check.execute(Run("x", "writes", needs="json"), tmp_path, 2)
    assert found["calls"] == 1 and found["seconds"] > 0 and json.loads((tmp_path / "2.json").read_text())
