"""The table of machines: which kernels `mla_decode` takes because of it, and tables that say what nobody knows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from wrappers import kernel, machines
from wrappers.testing import make_problem


def enter(tmp_path, monkeypatch, content) -> None:
    file = tmp_path / f"{abs(hash(json.dumps(content)))}.json"
    file.write_text(json.dumps(content))
    monkeypatch.setenv(machines.VARIABLE, str(file))


def test_nobody_has_entered_a_machine(monkeypatch):
    monkeypatch.delenv(machines.VARIABLE, raising=False)
    assert machines.machine_of("sm_100a") == machines.Machine() == machines.machine_of("sm_90a")


def test_calls_take_the_row_of_their_dtype_and_rows(tmp_path, monkeypatch):
    call = make_problem(1, 16, 4, 70).decode_call()
    default = kernel.decode_config(call, "sm_100a")
    row = {"dtype": "bf16", "most_rows": 64, "path": "wide", "stages": [4, 2, 5, 1], "uncut_tiles": 4}
    enter(tmp_path, monkeypatch, {"sm_100a": {"avoid": ["nan_in_keys"], "tuning": [row]}})
    tuned = kernel.decode_config(call, "sm_100a")
    assert tuned == replace(default, path="wide", stages=(4, 2, 5, 1), uncut_tiles=4, avoid=("nan_in_keys",))
    assert kernel.decode_config(call, "sm_103a") == replace(default, arch="sm_103a")
    assert kernel.decode_config(call, "sm_100a", "narrow") == replace(default, path="narrow", avoid=("nan_in_keys",))
    others = [make_problem(1, heads, 4, 70).decode_call() for heads in (8, 17)]  # of 32 and 68 rows
    assert {kernel.decode_config(other, "sm_100a").path for other in others} == {"auto"}
    isolated = replace(make_problem(1, 16, 4, 70), isolate_drafts=True).decode_call()
    assert kernel.decode_config(isolated, "sm_100a").stages == ()


@pytest.mark.parametrize(
    "content,said",
    [
        ({"sm_100a": {"avoid": ["luck"]}}, "luck"),
        ({"sm_100a": {"tuning": [{"dtype": "fp8", "most_rows": 64, "colour": 1}]}}, "colour"),
        ({"sm_100a": {"tuning": [{"dtype": "fp8"}]}}, "most_rows"),
        ({"sm_100a": {"speed": 1}}, "speed"),
        ([], "table of machines"),
    ],
)
def test_a_table_that_says_what_nobody_knows(content, said, tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch, content)
    with pytest.raises(ValueError, match=machines.VARIABLE) as error:
        machines.machine_of("sm_100a")
    assert said in str(error.value)
