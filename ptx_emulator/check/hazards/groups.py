"""Hazards by root cause: those that lack the same edge between the same kinds of accesses to the same kind of place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from .report import Hazard

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class HazardGroup:
    """hazards: one per pair of instructions, the most frequent first; places: the memory that they are about."""

    severity: str
    kind: str
    kernel: str
    edge: str
    accesses: str
    places: tuple[str, ...]
    hazards: tuple[Hazard, ...]

    @property
    def pairs(self) -> int:
        return len(self.hazards)

    @property
    def count(self) -> int:
        return sum(hazard.count for hazard in self.hazards)

    def __str__(self) -> str:
        where = ", ".join(self.places[:EXAMPLES]) + (", ..." if len(self.places) > EXAMPLES else "")
        what = f"{self.accesses}: " if self.accesses else ""
        lines = [
            f"{self.severity} [{self.kind}] {where}: {what}{self.edge}",
            f"    {self.pairs} pairs of instructions, {self.count} times, in {self.kernel}",
        ]
        for hazard in self.hazards[:EXAMPLES]:
            later = "" if hazard.line is None else f"line {hazard.line}: {hazard.text}"
            before = "" if hazard.prior_line is None else f" after line {hazard.prior_line}: {hazard.prior_text}"
            lines.append(f"    {hazard.count} times {later}{before}")
        return "\n".join(lines)

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "severity": self.severity, "kind": self.kind, "kernel": self.kernel, "edge": self.edge,
            "accesses": self.accesses, "places": list(self.places), "pairs": self.pairs, "count": self.count,
            "hazards": [asdict(hazard) for hazard in self.hazards],
        }  # fmt: skip


def _kind_of_place(place: str) -> str:
    """A place without what tells neighbours apart: indices, offsets, numbers of CTAs."""
    return re.split(r"\[|\+0x|, | of CTA| at 0x", place)[0]


def grouped(hazards: Iterable[Hazard]) -> list[HazardGroup]:
    """The groups, errors first, then those with the most pairs of instructions."""
    found: dict[tuple, list[Hazard]] = {}
    for hazard in hazards:
        place = _kind_of_place(hazard.place)
        key = hazard.severity, hazard.kind, hazard.kernel, hazard.edge, hazard.accesses, place
        found.setdefault(key, []).append(hazard)
    groups = []
    for (severity, kind, kernel, edge, accesses, _), members in found.items():
        members.sort(key=lambda hazard: -hazard.count)
        places = tuple(dict.fromkeys(hazard.place for hazard in members))
        groups.append(HazardGroup(severity, kind, kernel, edge, accesses, places, tuple(members)))
    order = ("error", "warning", "note")
    return sorted(groups, key=lambda group: (order.index(group.severity), -group.pairs))
