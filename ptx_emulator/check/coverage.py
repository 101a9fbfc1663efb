"""Lists the instruction forms of PTX files and says which of them the emulator does not implement.

python -m ptx_emulator coverage FILE.ptx|FOLDER [...] [--missing] [--json]

A folder stands for its `*.ptx`, as CuTe DSL dumps them (`python -m ptx_emulator.check.coverage` is the same command).

A form is an opcode with its modifiers. Each instruction goes through the decoder that a launch uses, so there is no
second list of what is supported. What depends on values that exist only at run time (the fields of descriptors and
tensor maps) is not seen here: a launch refuses it by name. Exit status: 1 if something is missing or a file cannot be
read as PTX, else 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import units  # noqa: F401  (registers instructions)
from ..command_line import Parser
from ..errors import EmulationError, PtxSyntaxError
from ..front import ops  # noqa: F401  (registers instructions)
from ..front.decode import layout
from ..front.emitter import Emitter
from ..front.parser import Function, Module, parse
from ..ir import Instruction


@dataclass(slots=True)
class Form:
    """One instruction form. `reason` says why it is missing, "" if it is not; `line` (1-based) is its first place, or
    the first place that is missing: an opcode can be implemented for some operands and not for others."""

    opcode: str
    count: int = 0
    line: int = 0
    reason: str = ""

    @property
    def supported(self) -> bool:
        return not self.reason


@dataclass(slots=True)
class Coverage:
    """The forms of one PTX text, by opcode. `error` is why the text could not be parsed, "" if it could."""

    forms: dict[str, Form] = field(default_factory=dict)
    error: str = ""

    @property
    def missing(self) -> list[Form]:
        return [form for form in self.forms.values() if not form.supported]

    @property
    def complete(self) -> bool:
        return not self.error and not self.missing


def coverage(ptx: str) -> Coverage:
    """What the PTX text asks of the emulator. Never raises for what the text contains."""
    result = Coverage()
    try:
        module = parse(ptx)
    except PtxSyntaxError as error:
        result.error = str(error)
        return result
    for function in module.entries.values():
        for inst, reason in _decoded(function, module):
            form = result.forms.setdefault(inst.opcode, Form(inst.opcode, line=inst.line))
            form.count += 1
            if reason and form.supported:
                form.line, form.reason = inst.line, reason
    result.forms = dict(sorted(result.forms.items()))
    return result


def _decoded(function: Function, module: Module) -> list[tuple[Instruction, str]]:
    """Every instruction with the decoder's refusal, "" where it accepts."""
    emitter = Emitter(function, layout(function, module)[0])
    result = []
    for inst in function.code:
        if isinstance(inst, str):
            continue
        reason = ""
        try:
            emitter.instruction(inst)
        except EmulationError as error:
            reason = error.message
        result.append((inst, reason))
    return result


def report(name: str, found: Coverage, only_missing: bool = False) -> str:
    """A table in text: one line per form."""
    if found.error:
        return f"{name}: cannot be read as PTX\n    {found.error}"
    lines = [f"{name}: {len(found.forms)} instruction forms, {len(found.missing)} missing"]
    for form in found.missing if only_missing else found.forms.values():
        state = "ok     " if form.supported else "MISSING"
        lines.append(f"  {state} {form.count:6d}x  line {form.line:<6d} {form.opcode}")
        if form.reason:
            lines.append(f"          {form.reason}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser("ptx_emulator coverage", __doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.ptx")
    parser.add_argument("--missing", action="store_true", help="list only what is missing")
    parser.add_argument("--json", action="store_true", help="print JSON: all forms of all files")
    options = parser.parse_args(arguments)
    results = {}
    for file in [text for path in options.files for text in (sorted(path.glob("*.ptx")) if path.is_dir() else [path])]:
        try:
            results[str(file)] = coverage(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"{file}: {error}")
    if not results:
        parser.error(f"{', '.join(map(str, options.files))}: no *.ptx there")
    if options.json:
        print(json.dumps([_as_json(name, found) for name, found in results.items()], indent=1))
    else:
        print("\n".join(report(name, found, options.missing) for name, found in results.items()))
    return int(not all(found.complete for found in results.values()))


def _as_json(name: str, found: Coverage) -> dict:
    forms = [{**asdict(form), "supported": form.supported} for form in found.forms.values()]
    return {"file": name, "error": found.error, "missing": len(found.missing), "forms": forms}


if __name__ == "__main__":
    sys.exit(main())
