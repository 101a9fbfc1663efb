"""First light's constants: programs in processes of their own, in the timed mode or on a GPU, and what becomes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.micro import launches, measure, memory
from bench.micro.recipes import BY_NAME
from scripts import crosscheck_gpu, crosscheck_ptxas
from scripts.first_light import constants, replay
from scripts.first_light.constants import Device
from tests.scripts.host_driver import HostDriver

HERE = Device(True, {}, 60)


@pytest.fixture(scope="module")
def programs():
    return constants.programs_of(True, True)


def named(programs, name):
    return next(program for program in programs["programs"] if program["name"] == name)


@pytest.mark.parametrize("name", measure.programs())
def test_the_assembler_accepts_a_program(name):
    if reason := crosscheck_ptxas.why_not():
        pytest.skip(reason)
    timed = measure.programs()[name]
    texts = {timed.build(timed.runs[-1])[0], launches.PTX}
    assert {crosscheck_ptxas.assemble(text)["result"] for text in texts} == {"assembled"}


def test_a_machine_that_pretends_is_found_out(programs, tmp_path):
    """What a rehearsal's GPU pretends to have comes out, and no other constant changes by more than rounding."""
    pretended = {"mma_macs": 3500.0, "hbm_latency": 800.0, "next_launch_pdl": 6e-7}
    rows = list(constants.run_all(programs, Device(True, pretended, 60), tmp_path, 600))
    assert {row["result"] for row in rows} == {"measured", "observed"} and len(rows) == 11
    values = {name: value for row in rows for name, value in row["values"].items()}
    table = {name: value for row in rows for name, value in row["table"].items()}
    expected = {**table, **pretended}
    assert {name: values[name] for name in table} == {name: pytest.approx(expected[name], rel=0.01) for name in table}
    assert json.loads((tmp_path / constants.FILE).read_text()) == {**values, "sms": 148}
    cells = constants.table_rows(rows)
    assert ("mma_macs", "3500", "4096") in [(cell[0], cell[4], cell[5]) for cell in cells]


def test_a_program_that_does_not_end_costs_its_constant_alone(programs, tmp_path):
    alu, launch = named(programs, "alu"), dict(named(programs, "alu")["launches"][0])
    launch["ptx"] = launch["ptx"].replace("LAST:", "LAST: bra LAST;")
    bad = {**alu, "name": "mma_macs", "launches": [launch, launch]}
    given = {**programs, "programs": [alu, bad], "chains": {}}
    rows = list(constants.run_all(given, Device(True, {}, 4), tmp_path, 600))
    assert [(row["constant"], row["result"]) for row in rows] == [("mma_macs", "crashed"), ("alu", "measured")]


def test_nothing_is_derived_where_bench_does_not_run(tmp_path, monkeypatch):
    failed = list(constants.run_all({"programs": [], "chains": {}}, HERE, tmp_path, 60))
    assert [row["result"] for row in failed] == ["crashed"]
    failed = list(constants.derived({"clocks": {"nothing": []}}, tmp_path, 60))
    assert [row["result"] for row in failed] == ["crashed"] and not list(tmp_path.iterdir())
    monkeypatch.setattr(constants, "MEASURE", ("false",))
    assert constants.programs_of(True, True)["programs"] == []


@pytest.fixture
def gpu(monkeypatch):
    stand_in = HostDriver(pytest.importorskip("cuda.bindings.driver"))
    monkeypatch.setattr(crosscheck_gpu, "driver", stand_in)
    found = object.__new__(crosscheck_gpu.Gpu)
    found.target, found.device = "sm_100a", 0
    monkeypatch.setattr(replay.crosscheck_gpu, "Gpu", lambda: found)
    return stand_in, found


def test_on_a_gpu_through_the_driver(programs, gpu, monkeypatch):
    """The stand-in's clock counts steps: times mean nothing, but what comes back is each CTA's clocks."""
    stand_in, found = gpu
    monkeypatch.setattr(replay, "FLUSH_BYTES", 1 << 20)
    for name in ("alu", "hbm_latency", "clock"):
        pairs = replay.timed_on_gpu(named(programs, name), {})
        assert len(pairs) == len(named(programs, name)["launches"]) and all(end > mark >= 0 for end, mark in pairs)
    assert stand_in.flushed == 2 * replay.LAUNCHES * replay.FLUSH_BYTES and not stand_in.memory
    assert replay.sms_on_gpu({}) == 148
    seconds = [replay.chain_on_gpu(programs, name, {}) for name in programs["chains"]]
    assert seconds == pytest.approx([1.25e-3, 2.25e-3, 2.25e-3]) and stand_in.dependents == ["next"]
    found.target = "sm_90a"
    assert "needs tcgen05" in replay.timed_on_gpu(named(programs, "mma_macs"), {})
    rows = list(constants._take({}, "mma_macs", Answers(), "timed"))
    assert [(row["result"], row["about"]) for row in rows] == [("not applicable here", "needs tcgen05")]


class Answers(Device):
    def __init__(self):
        super().__init__(False, {}, 60)

    def ask(self, question, *given):
        return "needs tcgen05"


def test_addresses_within_a_buffer_move_with_it(programs):
    """A chain of pointers is followed at its new place: an emulator that knew only the old one would stop."""
    program = named(programs, "hbm_latency")
    case = replay.case_of(program, program["launches"][0])
    moved = [address + 65536 for address in case.addresses]
    chain = next(i for i, content in enumerate(case.before) if any(content))
    words = [np.frombuffer(content, np.uint64) for content in (case.before[chain], case.contents_at(moved)[chain])]
    assert set(words[1][words[0] != 0] - words[0][words[0] != 0]) == {65536}
    assert BY_NAME["hbm_latency"].timed.build(8)[1]["shared_bytes"] == 0 and "dram" in memory.LEVELS
