"""Item 2: which of a kernel's fallbacks (MlaDecodeConfig.avoid) the machine needs, and the table that says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mla.config import AVOIDABLE
from scripts.first_light.assumptions import CRASHED, DIFFERS, HOLDS

NEEDED, NOT_NEEDED, UNKNOWN = "NEEDED", "not needed", "unknown"
FILE = "machine.json"
# What is avoided, by the row of docs/silicon-assumptions.md; of the other rows no kernel can do without.
SWITCHES = {4: "small_boxes", 5: "stores_over_tma", 6: "nan_in_keys"}
assert set(SWITCHES.values()) == set(AVOIDABLE)


def judge(assumptions: Sequence[Mapping]) -> Iterator[dict]:
    """A report row for each switch."""
    results = {row["row"]: row["result"] for row in assumptions}
    for number, name in SWITCHES.items():
        result = results.get(number)
        verdict = NEEDED if result in (DIFFERS, CRASHED) else NOT_NEEDED if result == HOLDS else UNKNOWN
        yield {"switch": name, "row": number, "result": verdict, "about": f"row {number}: {result or 'not reached'}"}


class Table:
    """The table of machines (wrappers.machines) of one architecture, at `folder`/machine.json."""

    def __init__(self, folder: Path, arch: str):
        self.file, self.arch = folder / FILE, arch
        self.content: dict = {"avoid": [], "tuning": []}

    def write(self, **changed: list) -> Path:
        self.content |= changed
        self.file.write_text(json.dumps({self.arch: self.content}, indent=1) + "\n")
        return self.file
