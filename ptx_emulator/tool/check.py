"""Looks for races in a kernel: memory accesses that nothing orders (docs/emulator-hazards.md lists the kinds).

    python -m ptx_emulator check CASE.py [name=value ...] [--dump FOLDER] [--suppress FILE] [--orders in_order]
        [--seeds N] [--time-limit S] [--json]

CASE.py as for `run`. A missing edge is found whatever the schedule, as long as the code is reached; more `--orders`
find what depends on them. `--suppress` names hazards that are known and accepted (check/hazards/suppressions.py).
Exit status: 0 if there is no hazard and every launch ends, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .options import case_of, case_parser
from .progress import Progress
from .schedules import Schedule, Trial, counted, schedules, try_schedules


def main(arguments: Sequence[str]) -> int:
    from ..check.hazards import Suppressions, grouped  # compiled code

    parser = case_parser("check", __doc__, "in_order", 2)
    parser.add_argument("--suppress", metavar="FILE", help="hazards that are known and accepted")
    given = parser.parse_intermixed_args(arguments)
    if given.suppress is not None:
        Suppressions.read(given.suppress)
    case = case_of(given)
    chosen = schedules(given.orders, given.seeds)
    with Progress(len(chosen)) as progress:
        trials = try_schedules(
            lambda **schedule: case.launch(
                checks=True, suppress=given.suppress, time_limit=given.time_limit, **schedule
            ),
            case.arrays,
            chosen,
            fault=case.fault,
            begun=lambda schedule: progress.begin(str(schedule)),
            ended=lambda trial: progress.finish(
                f"{trial.schedule}: {counted(len(trial.hazards), 'hazard')} ({trial.seconds:.1f} s)"
            ),
        )
    found = first_found(trials)
    groups = grouped(hazard for _, hazard in found)
    if given.json:
        print(json.dumps(as_json(trials, groups), indent=1))
    else:
        print(text_of(trials, found, groups))
    return int(bool(found) or any(trial.verdict for trial in trials))


def first_found(trials: Sequence[Trial]) -> list[tuple[Schedule, Any]]:
    """Every hazard with the schedule that was the first to show it; the same pair of instructions counts once."""
    found: dict[tuple, tuple[Schedule, Any]] = {}
    for trial in trials:
        for hazard in trial.hazards:
            key = hazard.kind, hazard.kernel, hazard.launch, hazard.line, hazard.prior_line
            found.setdefault(key, (trial.schedule, hazard))
    return list(found.values())


def text_of(trials: Sequence[Trial], found: Sequence[tuple[Schedule, Any]], groups: Sequence[Any]) -> str:
    lines = [str(group) for group in groups]
    lines += [f"{trial.schedule}: {trial.verdict}" for trial in trials if trial.verdict]
    ran = counted(len(trials), "schedule")
    errors, warnings = (sum(h.severity == severity for _, h in found) for severity in ("error", "warning"))
    lines.append(
        f"{ran}: {counted(len(found), 'hazard')} in {counted(len(groups), 'group')}, "
        f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        if found
        else f"{ran}: no hazards"
    )
    if later := {str(schedule) for schedule, _ in found} - {str(trials[0].schedule)}:
        lines.append(f"some first under {'; '.join(sorted(later))}")
    return "\n".join(lines)


def as_json(trials: Sequence[Trial], groups: Sequence[Any]) -> dict[str, Any]:
    rows = [
        {
            "order": trial.schedule.order,
            "seed": trial.schedule.seed,
            "hazards": len(trial.hazards),
            "verdict": trial.verdict,
            "seconds": trial.seconds,
        }
        for trial in trials
    ]
    return {"schedules": rows, "groups": [group.as_dict() for group in groups]}
