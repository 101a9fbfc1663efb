"""The constants of the timed mode come out of programs that were timed in it, and changed ones come out changed."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random

import pytest

from bench.micro import launches, measure
from bench.micro.model import clocks, modelled
from bench.micro.recipes import CODE_SIZES, OBSERVED, RECIPES, Recipe
from bench.micro.solve import solve
from ptx_emulator.timing import CONSTANTS, Constants

TABLE = Constants.of()
ROUNDED = 0.03  # clocks are whole cycles: of a latency of 20 to 30 cycles one is this much
# In the emulator a few rounds tell the clock as well as thousands.
QUICK = [
    dataclasses.replace(recipe, timed=dataclasses.replace(recipe.timed, runs=(4,))) if recipe.timed.timer else recipe
    for recipe in RECIPES
]
BY_NAME = {recipe.name: recipe for recipe in QUICK}
NAMES = [name for recipe in QUICK for name in recipe.constants]


def timed(machine: Constants, recipes=QUICK) -> dict[str, float]:
    return {recipe.name: modelled(recipe.timed, machine) for recipe in recipes}


def test_every_constant_is_recovered_from_a_wrong_table():
    """All are 8 to 20 % off where the search begins, and all come out as the machine has them."""
    rng = random.Random(1)
    start = {name: TABLE[name] * (1 + rng.choice((-1, 1)) * rng.uniform(0.08, 0.2)) for name in NAMES}
    start["wake"] = start["arrive"] * TABLE["wake"] / TABLE["arrive"]  # which no program tells apart
    found, constants = solve(QUICK, timed(TABLE), TABLE.replace(**start))
    assert len(found) == len(QUICK) >= 50 and not [one.why_not for one in found if one.why_not]
    assert {name: constants[name] for name in NAMES} == {
        name: pytest.approx(TABLE[name], rel=ROUNDED) for name in NAMES
    }


@pytest.mark.parametrize(
    "name,value",
    [("alu", 0.3), ("hbm_latency", 975.0), ("tmem_load", 64.0), ("ws_floor", 32.0), ("tma_4k", 2080.0), ("clock", 1.5)],
)
def test_a_machine_with_another_constant(name, value):
    """The mutant: the same programs on another machine give its value, and not the table's."""
    recipes = [BY_NAME[name]]
    found, constants = solve(recipes, timed(TABLE.replace(**{name: value}), recipes), TABLE)
    assert constants[name] == pytest.approx(value, rel=0.01) and abs(constants[name] / TABLE[name] - 1) > 0.1
    assert found[0].modelled == pytest.approx(found[0].measured, rel=0.005)


def test_a_program_that_does_not_depend_on_a_constant_gives_none():
    recipe = Recipe(("gpu_fence",), "", BY_NAME["alu"].timed)
    (found,), constants = solve([recipe], timed(TABLE, [recipe]), TABLE)
    assert found.values == {} and "does not depend" in found.why_not and constants == TABLE
    (found,), constants = solve([BY_NAME["branch"]], {"branch": 1.0}, TABLE)
    assert found.values == {} and "the nearest" in found.why_not and constants == TABLE
    (found,), _ = solve([BY_NAME["branch"]], {"branch": 0.0}, TABLE)
    assert found.values == {} and "no time" in found.why_not


@pytest.mark.parametrize("kib", [32, 64])
def test_the_capacity_of_the_instruction_cache(kib):
    machine = TABLE.replace(code_cache=float(kib * 1024))
    assert (
        measure._capacity({size: modelled(timed, machine) for size, timed in CODE_SIZES.items() if size <= 96}) == kib
    )


def test_no_capacity_where_every_loop_fits_or_one_was_not_timed():
    assert measure._capacity({16: 16.0, 32: 32.0}) is None and measure._capacity({16: 16.0, 32: None}) is None


def test_launches():
    machine = TABLE.replace(launch=3e-6, next_launch=2e-6, next_launch_pdl=5e-7)
    seconds = {name: launches.modelled(chain, machine) for name, chain in launches.CHAINS.items()}
    expected = {"launch": 3e-6, "next_launch": 2e-6, "next_launch_pdl": 5e-7}
    assert launches.found(seconds, TABLE) == pytest.approx(expected, rel=0.01)
    assert launches.found({**seconds, "two kernels": 0.0}, TABLE) == pytest.approx(
        {"launch": 3e-6, "next_launch_pdl": 5e-7}, rel=0.01
    )


def test_times_become_a_file_that_the_predictions_take(tmp_path):
    only = ["alu", "launches", next(iter(OBSERVED))]
    file, times, answer = (tmp_path / name for name in ("programs", "times.json", "found.json"))
    assert measure.main(["--programs", str(file), "--only", ",".join(only)]) == 0
    written = pickle.loads(file.read_bytes())
    assert [program["name"] for program in written["programs"]] == [only[0], only[2]] and len(written["chains"]) == 3
    known, machine = measure.programs(), TABLE.replace(alu=0.25)
    given = {name: [clocks(known[name], n, machine) for n in known[name].runs] for name in (only[0], only[2])}
    seconds = {name: launches.modelled(chain, machine) for name, chain in launches.CHAINS.items()}
    times.write_text(json.dumps({"clocks": given, "seconds": seconds, "sms": 140}))
    assert measure.main(["--times", str(times), "--json", str(answer)]) == 0
    content = json.loads(answer.read_text())
    assert content["constants"]["alu"] == pytest.approx(0.25, rel=0.01) and content["constants"]["sms"] == 140
    assert Constants.of(**content["constants"])["launch"] == pytest.approx(CONSTANTS["launch"].value, rel=0.01)
    assert [row["constant"] for row in content["found"]] == ["alu", "launch", "next_launch", "next_launch_pdl"]
    assert content["observed"][0]["measured"] == pytest.approx(content["observed"][0]["modelled"], rel=0.02)
    with pytest.raises(SystemExit):
        measure.main(["--programs", str(file), "--only", "nothing"])
    with pytest.raises(SystemExit):
        measure.main(["--times", str(times)])
