"""Executes a kernel under several schedules: are the results the same, bit for bit, and are they right?

    python -m ptx_emulator run CASE.py [name=value ...] [--dump FOLDER] [--orders in_order,late,random,adversarial]
        [--seeds N] [--time-limit S] [--json]

CASE.py has a function `arguments(**options)` that returns (IR text, PTX text, host arguments), as `cute_abi.launch`
takes them, or with --dump the host arguments alone; its `check(host_args)`, if it has one, says whether the result is
right.
Exit status: 0 if all schedules end with the same right result, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .options import case_of, case_parser
from .progress import Progress
from .schedules import Trial, counted, schedules, try_schedules


def main(arguments: Sequence[str]) -> int:
    given = case_parser("run", __doc__, "in_order,late,random,adversarial", 2).parse_intermixed_args(arguments)
    case = case_of(given)
    chosen = schedules(given.orders, given.seeds)
    with Progress(len(chosen)) as progress:
        trials = try_schedules(
            lambda **schedule: case.launch(time_limit=given.time_limit, **schedule),
            case.arrays,
            chosen,
            fault=case.fault,
            begun=lambda schedule: progress.begin(str(schedule)),
            ended=lambda trial: progress.finish(line(trial)),
        )
    print(json.dumps(as_json(trials), indent=1) if given.json else text_of(trials, case.judge is not None))
    return int(any(trial.verdict for trial in trials))


def line(trial: Trial) -> str:
    return f"{trial.schedule}: {trial.verdict.splitlines()[0] if trial.verdict else 'ok'} ({trial.seconds:.1f} s)"


def text_of(trials: Sequence[Trial], judged: bool) -> str:
    lines = []
    for trial in trials:
        count = sum(report.warp_instructions for report in trial.reports)
        lines.append(f"{str(trial.schedule):24s} {trial.verdict or f'ok, {count:,} warp instructions'}")
    bad = sum(bool(trial.verdict) for trial in trials)
    if bad:
        lines.append(f"{bad} of {counted(len(trials), 'schedule')}: not the same right result")
    else:
        right = "right, " if judged else ""
        lines.append(f"{counted(len(trials), 'schedule')}: {right}bit for bit the same")
    return "\n".join(lines)


def as_json(trials: Sequence[Trial]) -> dict[str, Any]:
    rows = [
        {
            "order": trial.schedule.order,
            "seed": trial.schedule.seed,
            "error": "" if trial.error is None else trial.verdict,
            "wrong": trial.wrong,
            "differs": trial.differs,
            "kernels": [report.kernel for report in trial.reports],
            "warp_instructions": sum(report.warp_instructions for report in trial.reports),
            "seconds": trial.seconds,
        }
        for trial in trials
    ]
    return {"clean": not any(trial.verdict for trial in trials), "schedules": rows}
