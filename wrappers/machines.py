"""What first light found of a machine, for the kernels that run on it: the one place that `mla_decode` reads it from.

A JSON object, architecture -> {"avoid": [names of mla.config.AVOIDABLE], "tuning": [{"dtype": "fp8", "most_rows": 64, and
the fields of MlaDecodeConfig that a call does not decide: path, uncut_tiles, stages, rescale_threshold}, ...]}. A call
takes the first row of its dtype that is for its rows (query tokens x heads): most_rows, or fewer but more than half. What is not named stays as it is
everywhere: an architecture that is not in the table runs the defaults.

The table is the file that the environment variable MLA_MACHINE_TABLE names (first-light/machine.json, say), or
machines.json beside this module, in which nobody has entered a machine yet.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mla.config import AVOIDABLE

VARIABLE = "MLA_MACHINE_TABLE"
BUILT_IN = Path(__file__).with_name("machines.json")
TUNED = ("path", "uncut_tiles", "stages", "rescale_threshold")
_SELECTING = ("dtype", "most_rows")


@dataclass(frozen=True)
class Machine:
    """avoid: see MlaDecodeConfig. tuning: rows, in order."""

    avoid: tuple[str, ...] = ()
    tuning: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    def tuned(self, dtype: str, rows: int) -> dict[str, Any]:
        """Fields of MlaDecodeConfig for a call of so many rows a request; empty where the defaults are best."""
        for row in self.tuning:
            if row["dtype"] == dtype and row["most_rows"] < 2 * rows <= 2 * row["most_rows"]:
                values = {name: value for name, value in row.items() if name not in _SELECTING}
                return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return {}


def machine_of(arch: str) -> Machine:
    """Raises ValueError where the table cannot be read or says what nobody knows."""
    return _table(os.environ.get(VARIABLE) or str(BUILT_IN)).get(arch, Machine())


@functools.cache
def _table(path: str) -> dict[str, Machine]:
    try:
        content = json.loads(Path(path).read_text())
        return {arch: _machine(**given) for arch, given in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{VARIABLE}={path}: cannot be read as a table of machines ({error})") from error


def _machine(avoid: tuple[str, ...] = (), tuning: tuple[dict, ...] = ()) -> Machine:
    if unknown := sorted(set(avoid) - set(AVOIDABLE)):
        raise ValueError(f"avoid {unknown[0]!r}: must be one of {', '.join(AVOIDABLE)}")
    for row in tuning:
        if unknown := sorted(set(row) - {*_SELECTING, *TUNED}):
            raise ValueError(f"tuning {unknown[0]!r}: must be one of {', '.join((*_SELECTING, *TUNED))}")
        if missing := sorted({*_SELECTING} - set(row)):
            raise ValueError(f"tuning row without {missing[0]!r}")
    return Machine(tuple(avoid), tuple(dict(row) for row in tuning))
