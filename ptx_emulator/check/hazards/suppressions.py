"""Files that name hazards which are known and accepted.

An INI file with a section per rule: what comes before a blank in its name is the kind. Every key must fit; `*` stands
for anything (fnmatch). A reason is asked for:

    [tcgen05-fence epilogue]
    text = tcgen05.ld*
    prior = tcgen05.st*
    kernel = *mla*
    place = Tensor Memory*
    reason = the loads are waited for
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Hazard

KEYS = ("text", "prior", "kernel", "place")


@dataclass(slots=True)
class Rule:
    """`patterns`: key -> pattern; `used`: hazards that it has suppressed."""

    name: str
    kind: str
    patterns: dict[str, str]
    reason: str
    used: int = 0

    def fits(self, hazard: Hazard) -> bool:
        given = {
            "text": hazard.text or "", "prior": hazard.prior_text or "", "kernel": hazard.kernel, "place": hazard.place,
        }  # fmt: skip
        return fnmatchcase(hazard.kind, self.kind) and all(
            fnmatchcase(given[key], pattern) for key, pattern in self.patterns.items()
        )


@dataclass(slots=True)
class Suppressions:
    """Rules, in their order; the first that fits a hazard counts it."""

    rules: list[Rule] = field(default_factory=list)

    @classmethod
    def read(cls, path: str | Path) -> Suppressions:
        """Raises ValueError that names the file and the section."""
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        try:
            with open(path, encoding="utf-8") as file:
                parser.read_file(file)
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise ValueError(f"suppress={str(path)!r}: cannot be read: {error}") from None
        return cls([_rule(path, parser[name]) for name in parser.sections()])

    def suppresses(self, hazard: Hazard) -> bool:
        rule = next((rule for rule in self.rules if rule.fits(hazard)), None)
        if rule is not None:
            rule.used += 1
        return rule is not None

    @property
    def unused(self) -> list[str]:
        """Names of rules that fit nothing: what they were for has gone."""
        return [rule.name for rule in self.rules if not rule.used]


def _rule(path, section) -> Rule:
    from .report import KINDS

    where = f"suppress={str(path)!r}, section [{section.name}]"
    kind = section.name.split()[0] if section.name.split() else ""
    if not any(fnmatchcase(known, kind) for known in KINDS.values()):
        kinds = ", ".join(sorted(set(KINDS.values())))
        raise ValueError(f"{where}: no kind of hazard is called {kind!r}, they are {kinds}")
    patterns = dict(section)
    reason = patterns.pop("reason", "").strip()
    wrong = [key for key in patterns if key not in KEYS]
    if wrong or not reason:
        what = f"key {wrong[0]!r} is not one of {', '.join((*KEYS, 'reason'))}" if wrong else "a reason must be given"
        raise ValueError(f"{where}: {what}")
    return Rule(section.name, kind, patterns, reason)
