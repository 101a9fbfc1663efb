"""Constants from measured programs: the value with which the timed mode takes as long for the program as was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.micro.model import modelled
from bench.micro.recipes import Recipe
from ptx_emulator.timing import Constants

CLOSE = 3e-4  # of the number
FACTOR = 32.0  # how far from where it starts a constant is looked for
SENSITIVE = 0.005  # by how much at least the number must change with a tenth more or less of the constant
SWEEPS = 2
_STEPS = 40


@dataclass(frozen=True)
class Found:
    """values: what is written, none if `why_not`. measured: the program's number. modelled: with all that was found."""

    recipe: Recipe
    measured: float
    modelled: float
    values: Mapping[str, float]
    why_not: str = ""


def solve(recipes: Sequence[Recipe], measured: Mapping[str, float], start: Constants) -> tuple[list[Found], Constants]:
    """Every recipe whose name is in `measured`, and the table with what was found. SWEEPS times, since a program may
    depend a little on constants of later ones; only what comes last is told."""
    constants, found = start, {}
    for _ in range(SWEEPS):
        for recipe in recipes:
            if recipe.name in measured:
                found[recipe.name] = _solve_one(recipe, measured[recipe.name], constants)
                constants = constants.replace(**found[recipe.name].values)
    return list(found.values()), constants


def _solve_one(recipe: Recipe, measured: float, constants: Constants) -> Found:
    def at(log_factor: float) -> float:
        """By how much the program takes longer than measured, log, with the constants times exp(log_factor)."""
        number = modelled(recipe.timed, _scaled(recipe, constants, log_factor))
        return math.log(max(number, 1e-9) / measured)

    if not measured > 0:
        return Found(recipe, measured, measured, {}, "the program gave no time")
    if recipe.timed.timer:
        return Found(recipe, measured, measured, dict.fromkeys(recipe.constants, measured))
    place, error = _root(at)
    about = measured * math.exp(error)
    if abs(error) > 2 * SENSITIVE:
        return Found(recipe, measured, about, {}, f"no value gives it: the nearest {about:.4g}")
    step = math.log(1.1)
    if abs(at(place + step) - at(place - step)) < SENSITIVE:
        return Found(recipe, measured, about, {}, "the program does not depend on it here")
    scaled = _scaled(recipe, constants, place)
    return Found(recipe, measured, about, {name: scaled[name] for name in recipe.constants})


def _scaled(recipe: Recipe, constants: Constants, log_factor: float) -> Constants:
    return constants.replace(**{name: constants[name] * math.exp(log_factor) for name in recipe.constants})


def _root(at: Callable[[float], float]) -> tuple[float, float]:
    """(where `at` is nearest to 0, `at` there), for a function that does not turn round: steps of two until the sign
    changes, then halves and secants in turn."""
    best = (0.0, at(0.0))
    if abs(best[1]) <= CLOSE:
        return best
    slope = at(0.1) - best[1]
    if slope == 0.0:
        slope = best[1] - at(-0.1)
    if slope == 0.0:
        return best
    direction = -math.copysign(1.0, best[1]) * math.copysign(1.0, slope)
    low, reach = best, 0.0
    while reach < math.log(FACTOR):
        reach += math.log(2.0)
        high = (direction * reach, at(direction * reach))
        best = min(best, high, key=lambda pair: abs(pair[1]))
        if high[1] * low[1] <= 0:
            break
        low = high
    else:
        return best
    for step in range(_STEPS):
        middle = (low[0] + high[0]) / 2
        if step % 2 == 0 and high[1] != low[1]:
            middle = low[0] - low[1] * (high[0] - low[0]) / (high[1] - low[1])
        value = (middle, at(middle))
        best = min(best, value, key=lambda pair: abs(pair[1]))
        if abs(value[1]) <= CLOSE or abs(high[0] - low[0]) < 1e-4:
            break
        if value[1] * low[1] > 0:
            low = value
        else:
            high = value
    return best
