"""Constants of the timed mode for a GPU, for scripts.first_light, which runs the programs.

python -m bench.micro.measure --programs FILE [--only NAME,NAME] [--load-rounds N]   write the programs (pickle of a list of dicts)
python -m bench.micro.measure --times FILE --json FILE [--constants FILE]   their times (JSON) to constants (JSON)

--times: {"clocks": {program: [cycles to the end, to the mark]}, "seconds": {chain of launches: seconds}, "sms": number}.
--json: {"constants": {name: value}, as bench.predict --constants takes them, "found": a row for each program that is for
a constant: how, and what it took, "observed": a row for each other}. Programs that have no time are left out.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.micro import launches
from bench.micro.model import modelled
from bench.micro.published import POINTS
from bench.micro.recipes import CODE_SIZES, LOAD_ROUNDS, OBSERVED, RECIPES
from bench.micro.solve import solve
from bench.micro.timed import Timed
from ptx_emulator.timing import CONSTANTS, Constants
from wrappers import command_line

FITS = 1.1  # an instruction of a loop that the cache holds takes at most so much longer than in the smallest loop
LAUNCHES = "launches"


def programs() -> dict[str, Timed]:
    """All programs by name: of constants, of the instruction cache's size, observed, published."""
    sizes = {f"code_cache {kib} KiB": timed for kib, timed in CODE_SIZES.items()}
    published = {f"published: {point.name}": point.timed for point in POINTS}
    return {**{recipe.name: recipe.timed for recipe in RECIPES}, **sizes, **OBSERVED, **published}


def write_programs(file: Path, only: Sequence[str], load_rounds: int = LOAD_ROUNDS) -> None:
    """Each program with its launches as data: buffers' addresses and bytes (their number where all are 0)."""
    rows = []
    for name, timed in programs().items():
        if only and name not in only:
            continue
        built = [timed.build(n) for n in ((load_rounds,) if timed.timer else timed.runs)]
        flags = {flag: getattr(timed, flag) for flag in ("cold", "flushed", "timer")}
        rows.append({"name": name, "launches": [_launch(*one) for one in built], **flags})
    chains = {} if only and LAUNCHES not in only else launches.CHAINS
    with file.open("wb") as stream:
        pickle.dump({"programs": rows, "chains": chains, "ptx": launches.PTX, "threads": launches.THREADS}, stream)


def _launch(ptx: str, options: dict) -> dict:
    buffers = [np.asarray(buffer).view(np.uint8) for buffer in options["buffers"]]
    return {
        "ptx": ptx, "kernel": "k", "grid": options["grid"], "block": options["block"],
        "cluster": options["cluster"], "shared_bytes": options["shared_bytes"],
        "params": tuple(options["params"]), "addresses": tuple(buffer.ctypes.data for buffer in buffers),
        "before": tuple(buffer.tobytes() if buffer.any() else buffer.size for buffer in buffers),
    }  # fmt: skip


def derive(times: Mapping, start: Constants) -> dict:
    """What --json writes."""
    known = programs()
    numbers = {name: known[name].number(pairs) for name, pairs in times["clocks"].items()}
    given = {"sms": float(times["sms"])} if times.get("sms") else {}
    found, constants = solve(RECIPES, numbers, start.replace(**given))
    rows = [_row(one.recipe.name, one.recipe.how, one.measured, one.modelled, one.values, one.why_not) for one in found]
    values = {**given, **{name: value for one in found for name, value in one.values.items()}}
    if capacity := _capacity({kib: numbers.get(f"code_cache {kib} KiB") for kib in CODE_SIZES}):
        values["code_cache"] = float(capacity * 1024)
        rows.append(
            _row(
                "code_cache",
                "the largest loop that takes no longer",
                capacity,
                capacity,
                {"code_cache": capacity * 1024},
                "",
            )
        )
    if times.get("seconds"):
        of_launches = launches.found(times["seconds"], constants)
        values |= of_launches
        how = "chains of empty kernels, microseconds"
        rows += [_row(name, how, value * 1e6, value * 1e6, {name: value}, "") for name, value in of_launches.items()]
    constants = start.replace(**values)
    others = [name for name in numbers if name.startswith("published: ") or name in OBSERVED]
    observed = [
        {"program": name, "measured": numbers[name], "modelled": modelled(known[name], constants)} for name in others
    ]
    return {"constants": values, "found": rows, "observed": observed}


def _row(name: str, how: str, measured: float, about: float, values: Mapping[str, float], why_not: str) -> dict:
    table = {one: CONSTANTS[one].value for one in name.split(" + ")}
    return {"constant": name, "how": how, "measured": measured, "modelled": about, "values": dict(values), "table": table,
            "why_not": why_not}  # fmt: skip


def _capacity(cycles: Mapping[int, float | None]) -> int | None:
    """KiB of the largest loop that takes hardly longer an instruction than the smallest; None if not all were timed or
    all take as long, so that the cache may be larger."""
    if None in cycles.values():
        return None
    each = {kib: value / kib for kib, value in cycles.items()}
    smallest = each[min(each)]
    fits = [kib for kib, value in each.items() if value <= FITS * smallest]
    return None if len(fits) == len(each) else max(fits)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.micro.measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=command_line.output_file, metavar="FILE")
    parser.add_argument("--only", default="", help=f"names of programs, and {LAUNCHES}")
    parser.add_argument(
        "--load-rounds", type=command_line.integer(1), default=LOAD_ROUNDS, help="how long the clock is under load"
    )
    parser.add_argument("--times", type=Path, metavar="FILE")
    parser.add_argument("--constants", metavar="FILE", help="the table to start from, in place of the library's")
    parser.add_argument("--json", type=command_line.output_file, metavar="FILE")
    options = parser.parse_args(arguments)
    if bool(options.programs) == bool(options.times and options.json):
        parser.error("--programs, or --times and --json")
    if options.programs:
        only = [name for name in options.only.split(",") if name]
        if unknown := sorted(set(only) - {*programs(), LAUNCHES}):
            parser.error(f"--only {unknown[0]}: no program has this name")
        write_programs(Path(options.programs), only, options.load_rounds)
        return 0
    content = derive(json.loads(options.times.read_text()), Constants.given([], options.constants))
    Path(options.json).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command_line.run(main)
