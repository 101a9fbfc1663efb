"""Mutants of a kernel's PTX, each with one synchronising instruction removed or weakened, and who of them is found out.

A checker and a set of schedules are worth what they find. `mutants` makes the mutants, `score` runs each in a process
of its own (a mutant may loop for ever) and says by what it was detected, or that it survived.
"""

from __future__ import annotations

import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import EmulationError, UnsupportedInstruction
from ..front.parser import parse

DETECTED, SURVIVED, NOT_REACHED = "detected", "survived", "not reached"

# Instructions that are removed whole, by the start of their opcode.
_DROPPED = (
    "mbarrier.arrive", "mbarrier.expect_tx", "mbarrier.complete_tx", "tcgen05.commit", "tcgen05.fence", "tcgen05.wait",
    "tcgen05.dealloc", "fence", "membar", "bar.sync", "bar.arrive", "bar.red", "barrier.sync", "barrier.arrive",
    "barrier.cta", "bar.cta", "bar.warp.sync", "barrier.cluster", "griddepcontrol.wait", "cp.async.commit_group",
    "cp.async.wait", "cp.async.mbarrier", "cp.async.bulk.commit_group", "cp.async.bulk.wait_group",
)  # fmt: skip
_NAMED = re.compile(r"(bar(?:rier)?(?:\.cta)?\.(?:sync|arrive|red)\S*\s+)(\d+)")
_WAIT = re.compile(r"mbarrier\.(?:try|test)_wait\S*\s+(\S+?),")
_INIT = re.compile(r"(mbarrier\.init\S*\s+\[[^]]*\],\s*)(\S+?)(;)")
_EXPECT = re.compile(r"(mbarrier\.(?:arrive\.)?expect_tx\S*\s.*,\s*)(\S+?)(;)")


@dataclass(frozen=True)
class Mutant:
    """`change` says what was done to `text` at `line`; `ptx` is the whole text."""

    number: int
    line: int
    text: str
    change: str
    ptx: str = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """`by`: what found the mutant (a hazard's kind, an error's class, "result", "time"), "" if nothing did."""

    mutant: Mutant
    outcome: str
    by: str = ""
    detail: str = ""


def mutants(ptx: str, kernel: str | None = None) -> list[Mutant]:
    """One mutant per synchronising instruction and way to weaken it, in the order of the text.

    `kernel`: only that entry's instructions. Raises ValueError if the text has no such entry.
    """
    module = parse(ptx)
    if kernel is not None and kernel not in module.entries:
        raise ValueError(f"kernel={kernel!r}: not an entry of the module, which has {list(module.entries)}")
    lines = ptx.splitlines()
    found = []
    for name, function in module.entries.items():
        if kernel in (None, name):
            for inst in function.code:
                if not isinstance(inst, str):
                    found += [(inst.line, *pair) for pair in _changes(lines[inst.line - 1], inst.opcode)]
    result = []
    for number, (line, change, text) in enumerate(found):
        changed = [*lines[: line - 1], text, *lines[line:]]
        result.append(Mutant(number, line, lines[line - 1].strip(), change, "\n".join(changed) + "\n"))
    return result


def _changes(line: str, opcode: str) -> Iterator[tuple[str, str]]:
    """(what was done, the line after it) for every way to weaken the instruction `opcode` on `line`."""
    start = line.find(opcode)
    if start < 0:
        return
    end = line.index(";", start) + 1
    before, text, after = line[:start], line[start:end], line[end:]
    guard = re.search(r"@!?[\w$%.]+\s*$", before)
    without = before[: guard.start()] if guard else before
    if match := _WAIT.match(text):
        yield "wait passes", f"{before}setp.eq.u32 {match.group(1)}, 0, 0;{after}"
    elif opcode.startswith("mbarrier.init"):
        if match := _INIT.match(text):
            yield from _operand_changed("count", before, match, 1, after)
            if match.group(2) != "1":
                yield from _operand_changed("count", before, match, -1, after)
    elif opcode.startswith(_DROPPED):
        yield "dropped", without + after
        if match := _NAMED.match(text):
            other = (int(match.group(2)) + 1) % 16
            yield f"barrier {other}", f"{before}{match.group(1)}{other}{text[match.end() :]}{after}"
        if match := _EXPECT.match(text):
            for step in (16, -16):
                yield from _operand_changed("bytes", before, match, step, after)


def _operand_changed(what: str, before: str, match: re.Match, step: int, after: str) -> Iterator[tuple[str, str]]:
    """The instruction with `step` added to its last operand, a number or a register."""
    value = match.group(2)
    if value.isdigit():
        yield f"{what} {step:+}", before + match.group(1) + str(int(value) + step) + match.group(3) + after
    elif not before.strip().startswith("@"):
        scratch = f"{{ .reg .b32 changed_; add.s32 changed_, {value}, {step}; "
        yield f"{what} {step:+}", f"{before}{scratch}{match.group(1)}changed_; }}{after}"


def _attempt(run: Callable, ptx: str, queue) -> None:
    """Runs in a child process; puts (outcome, by, detail)."""
    try:
        found = run(ptx)
    except UnsupportedInstruction as error:
        queue.put(("error", "mutant cannot run", str(error)[:300]))
    except EmulationError as error:
        queue.put((DETECTED, type(error).__name__, str(error)[:300]))
    except AssertionError as error:
        queue.put((DETECTED, "result", str(error)[:300]))
    else:
        queue.put((DETECTED, found[0], found[1]) if found else (SURVIVED, "", ""))


def judge(mutant: Mutant, runs: Sequence[Callable], limit: float) -> Verdict:
    """Runs a mutant, one run after the other until something finds it. See `score`."""
    context = multiprocessing.get_context("fork")
    for number, run in enumerate(runs):
        queue = context.SimpleQueue()
        child = context.Process(target=_attempt, args=(run, mutant.ptx, queue), daemon=True)
        child.start()
        child.join(limit)
        if child.is_alive():
            child.kill()
            child.join()
            return Verdict(mutant, DETECTED, "time", f"run {number} takes more than {limit:.0f} s")
        if queue.empty():
            return Verdict(mutant, "error", "process", f"run {number} died with exit code {child.exitcode}")
        outcome, by, detail = queue.get()
        if outcome != SURVIVED:
            return Verdict(mutant, outcome, by if number == 0 else f"{by} (run {number})", detail)
    return Verdict(mutant, SURVIVED)


def score(
    candidates: Sequence[Mutant],
    runs: Sequence[Callable[[str], tuple[str, str] | None]],
    *,
    reached: set[int] | None = None,
    limit: float = 120.0,
    progress: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """The verdict on each mutant.

    runs      run(ptx) executes the kernel once; it returns None, or (what, detail) of what was found; it may raise
              EmulationError or AssertionError (a wrong result). Cheapest first.
    reached   lines that the unchanged kernel executes in these runs; mutants of other lines are not run
    limit     seconds per run, after which a mutant counts as detected (it hangs)
    """
    verdicts = []
    for mutant in candidates:
        if reached is not None and mutant.line not in reached:
            verdict = Verdict(mutant, NOT_REACHED)
        else:
            verdict = judge(mutant, runs, limit)
        verdicts.append(verdict)
        if progress is not None:
            progress(verdict)
    return verdicts


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: how many mutants of each kind of instruction were detected, and by what."""
    rows: dict[tuple[str, str], Counter] = {}
    for verdict in verdicts:
        words = re.sub(r"^@\S+\s+", "", verdict.mutant.text.lstrip("{ ")).split()[0]
        key = (words, re.sub(r"[+-]?\d+$", "", verdict.mutant.change).strip())
        label = verdict.outcome if verdict.outcome != DETECTED else f"by {re.sub(r' .run .*', '', verdict.by)}"
        rows.setdefault(key, Counter())[label] += 1
    lines = ["| Instruction | Change | Mutants | Outcome |", "|---|---|---|---|"]
    for (name, change), counts in sorted(rows.items()):
        outcome = ", ".join(f"{n} {label}" for label, n in counts.most_common())
        lines.append(f"| `{name}` | {change} | {counts.total()} | {outcome} |")
    return "\n".join(lines)
