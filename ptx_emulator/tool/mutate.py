"""Mutation score of a kernel: which removed synchronisation do the checks, the schedules and its own `check` find?

    python -m ptx_emulator mutate CASE.py [name=value ...] [--dump FOLDER] [--kernel NAME] [--only TEXT]
        [--orders adversarial] [--seeds N] [--time-limit S] [--suppress FILE] [--json]

CASE.py as for `run`. Every mutant (check/mutation.py) has one synchronising instruction removed or weakened. It runs in
order with the race checker, then under the schedules, until something finds it: a hazard, an error, the time limit, or
a result that the case's `check` refuses (without one: that is not the unchanged kernel's, bit for bit).
Exit status: 0 if every mutant that is reached is found, 1 if one survives, 2 for wrong arguments or a kernel that is
not clean unchanged.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ..check import mutation
from ..cute_abi.cases import Case
from .options import case_of, case_parser
from .schedules import Memory, Schedule, schedules, try_schedules

TIME_LIMIT = 120.0
Run = Callable[[str], "tuple[str, str] | None"]


def main(arguments: Sequence[str]) -> int:
    parser = case_parser("mutate", __doc__, "adversarial", 2)
    parser.add_argument("--kernel", metavar="NAME", help="only that entry's instructions")
    parser.add_argument("--only", metavar="TEXT", help="only instructions whose text contains this")
    parser.add_argument("--suppress", metavar="FILE", help="hazards that are known and accepted")
    given = parser.parse_intermixed_args(arguments)
    case = case_of(given)
    chosen = [Schedule("in_order"), *schedules(given.orders, given.seeds)]
    reached, runs = prepare(case, chosen, given.suppress)
    verdicts = judge(
        case.ptx, runs, reached, given.time_limit or TIME_LIMIT, kernel=given.kernel, only=given.only
    )  # fmt: skip
    print(json.dumps(as_json(verdicts), indent=1) if given.json else text_of(verdicts))
    return status(verdicts)


def prepare(case: Case, chosen: Sequence[Schedule], suppress: str | None) -> tuple[set[int], list[Run]]:
    """(the lines that the unchanged kernel executes, what runs a mutant under each schedule). Raises ValueError if the
    unchanged kernel is not clean."""
    checked = partial(case.launch, checks=True, suppress=suppress)
    memory = Memory(case.arrays)
    before = memory.contents()
    trials = try_schedules(lambda **schedule: checked(**schedule), case.arrays, chosen, fault=case.fault)
    for trial in trials:
        if trial.verdict or trial.hazards:
            why = trial.verdict or str(trial.hazards[0])
            raise ValueError(f"the unchanged kernel is not clean ({trial.schedule}): {why}")
    expected = memory.contents()
    memory.put(before)
    lines = {line for trial in trials for report in trial.reports for line, n in report.by_line().items() if n}

    def execute(ptx: str, schedule: Schedule) -> tuple[str, str] | None:
        """In a process of its own, so that the arrays are as `before`."""
        reports = checked(ptx, order=schedule.order, seed=schedule.seed)
        hazards = reports[-1].hazards if reports else []
        if hazards:
            return hazards[0].kind, str(hazards[0])
        wrong = case.fault() if case.judge is not None else memory.difference(expected)
        return ("result", wrong) if wrong else None

    return lines, [partial(execute, schedule=schedule) for schedule in chosen]


def judge(
    ptx: str,
    runs: Sequence[Run],
    reached: set[int],
    limit: float,
    *,
    kernel: str | None = None,
    only: str | None = None,
) -> list[mutation.Verdict]:
    """The verdict on every mutant, each told on stderr. limit: seconds per run. Raises ValueError if there is none."""
    candidates = [m for m in mutation.mutants(ptx, kernel) if only is None or only in m.text]
    if not candidates:
        raise ValueError(f"only={only!r}, kernel={kernel!r}: no synchronising instruction there")
    started = time.monotonic()
    done = iter(range(1, len(candidates) + 1))

    def tell(verdict: mutation.Verdict) -> None:
        print(
            f"[{next(done)}/{len(candidates)} {time.monotonic() - started:.0f} s] line {verdict.mutant.line} "
            f"{verdict.mutant.text[:70]} ({verdict.mutant.change}): {verdict.outcome} {verdict.by}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    return mutation.score(candidates, runs, reached=reached, limit=limit, progress=tell)


def counts(verdicts: Sequence[mutation.Verdict]) -> Counter:
    return Counter(verdict.outcome for verdict in verdicts)


def status(verdicts: Sequence[mutation.Verdict]) -> int:
    return int(counts(verdicts)[mutation.SURVIVED] > 0)


def text_of(verdicts: Sequence[mutation.Verdict]) -> str:
    lines = [
        f"{v.outcome}: line {v.mutant.line}: {v.mutant.text} ({v.mutant.change})"
        for v in verdicts
        if v.outcome not in (mutation.DETECTED, mutation.NOT_REACHED)
    ]
    total = ", ".join(f"{n} {outcome}" for outcome, n in counts(verdicts).most_common())
    return "\n".join([*lines, mutation.table(verdicts), total])


def as_json(verdicts: Sequence[mutation.Verdict]) -> dict[str, Any]:
    rows = []
    for verdict in verdicts:
        row = asdict(verdict)
        del row["mutant"]["ptx"]
        rows.append(row)
    return {"counts": counts(verdicts), "mutants": rows}
