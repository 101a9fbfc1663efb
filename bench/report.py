"""Markdown tables of what `bench.predict --json` wrote; put into a document between its markers, or printed.

    python -m bench.predict --clock 1.93,1.7,1.5 --sensitivity --jobs 2 --json docs/performance.json
    python -m bench.report docs/performance.json [--reference docs/performance-reference.json] [--write docs/performance.md]

        [--table totals,clocks]

A document names a table by the line `<!-- bench.report: NAME -->`; what follows, up to `<!-- end -->`, is replaced.
NAME: totals, clocks, disputed, relaxed, users (what `bench.predict --users` has). --reference: totals of other kernels in
the same model, rows of (kernel, workload, clock, variant, total, note); kernel: before, peer,
flashinfer (its columns are left out where it has no row).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ("totals", "clocks", "disputed", "relaxed", "users")
_PLACE = re.compile(r"(<!-- bench\.report: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """Predictions at the first clock, totals by (workload, clock, variant) of ours and of (kernel, workload, clock,
    variant) of other kernels; names of the variants of each kind, "" being none."""

    rows: tuple[dict, ...]
    clocks: tuple[float, ...]
    variants: dict[str, tuple[str, ...]]
    totals: dict[tuple[str, float, str], float]
    others: dict[tuple[str, str, float, str], tuple[float, str]]

    @property
    def clock(self) -> float:
        return self.clocks[0]

    def ratio(self, kernel: str, workload: str, clock: float, variant: str = "") -> str:
        """The other kernel's total over ours, as text; "-" where one is missing."""
        other = self.others.get((kernel, workload, clock, variant))
        ours = self.totals.get((workload, clock, variant))
        return f"{other[0] / ours:.2f}" if other and ours else "-"


def read(path: str, reference: str | None = None) -> Found:
    """Raises ValueError where a file is not what it should be."""
    try:
        data = json.loads(Path(path).read_text())
        others = json.loads(Path(reference).read_text())["rows"] if reference else []
        predictions, variants = data["predictions"], data["variants"]
        totals = {(row["workload"], row["clock"], ""): row["total"] for row in predictions}
        totals |= {(row["workload"], row["clock"], row["name"]): row["total"] for row in variants}
        clocks = tuple(dict.fromkeys(row["clock"] for row in predictions))
        names = {kind: tuple(dict.fromkeys(row["name"] for row in variants if row["kind"] == kind))
                 for kind in ("relaxed", "disputed")}  # fmt: skip
        return Found(
            tuple(row for row in predictions if row["clock"] == clocks[0]), clocks, names, totals,
            {(row["kernel"], row["workload"], row["clock"], row["variant"]): (row["total"], row["note"])
             for row in others},
        )  # fmt: skip
    except (OSError, KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not what bench.predict --json writes ({type(error).__name__}: {error})") from error


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def totals_table(found: Found) -> str:
    peers = ["peer", *(["flashinfer"] if any(key[0] == "flashinfer" for key in found.others) else [])]
    head = ["workload", "path", "HBM", "MMA", "before", "decode", "merge", "total", "target", "before / now"]
    head += [title for peer in peers for title in (peer, f"{peer} / now")]
    rows = []
    for row in found.rows:
        name, clock = row["workload"], found.clock
        before, *others = (found.others.get((kernel, name, clock, "")) for kernel in ("before", *peers))
        cells = [f"{other[0]:.1f} {other[1]}".rstrip() if other else "-" for other in others]
        rows.append([
            name, row["path"], *(f"{row[key]:.1f}" for key in ("hbm", "mma")), f"{before[0]:.1f}" if before else "-",
            *(f"{row[key]:.1f}" for key in ("decode", "merge")), f"**{row['total']:.1f}**", f"{row['target']:.1f}",
            found.ratio("before", name, clock),
            *(text for peer, cell in zip(peers, cells, strict=True) for text in (cell, found.ratio(peer, name, clock))),
        ])  # fmt: skip
    return table_of(head, rows)


def _with_ratios(found: Found, columns: Sequence[tuple[str, float, str]]) -> str:
    """Totals of ours in each column (title, clock, variant), then the ratios of those kernels that have more than the
    first column's."""
    kernels = [k for k in ("before", "peer", "flashinfer") if any((k, row["workload"], c, v) in found.others
                                                    for row in found.rows for _, c, v in columns[1:])]  # fmt: skip
    head = ["workload", *(title for title, _, _ in columns)]
    head += [f"{kernel} / now, {title}" for kernel in kernels for title, _, _ in columns]
    rows = []
    for row in found.rows:
        name = row["workload"]
        ours = [found.totals.get((name, clock, variant)) for _, clock, variant in columns]
        ratios = [found.ratio(kernel, name, clock, variant) for kernel in kernels for _, clock, variant in columns]
        rows.append([name, *("-" if total is None else f"{total:.1f}" for total in ours), *ratios])
    return table_of(head, rows)


def clocks_table(found: Found) -> str:
    return _with_ratios(found, [(f"{clock} GHz", clock, "") for clock in found.clocks])


def disputed_table(found: Found) -> str:
    """Totals of ours, and in brackets the peer's over them."""
    variants = ["", *found.variants["disputed"]]
    rows = []
    for row in found.rows:
        name = row["workload"]
        totals = [found.totals.get((name, found.clock, variant)) for variant in variants]
        ratios = [found.ratio("peer", name, found.clock, variant) for variant in variants]
        cells = [
            "-" if total is None else f"{total:.1f} ({ratio})" for total, ratio in zip(totals, ratios, strict=True)
        ]
        rows.append([name, *cells])
    return table_of(["total (peer / now)", "as it is", *variants[1:]], rows)


def relaxed_table(found: Found) -> str:
    """Change of the total in percent, a row for each resource."""
    chosen = [row for row in found.rows if any((row["workload"], found.clock, n) in found.totals
                                               for n in found.variants["relaxed"])]  # fmt: skip
    rows = []
    for name in found.variants["relaxed"]:
        cells = []
        for row in chosen:
            change = found.totals[row["workload"], found.clock, name] / row["total"] - 1
            cells.append(f"{change:+.0%}" if abs(change) >= 0.005 else "0")
        rows.append([name, *cells])
    return table_of(["twice as fast", *(row["workload"] for row in chosen)], rows)


def users_table(found: Found) -> str:
    """Ours, and the totals of other kernels over ours at each clock, of those kernels that were timed."""
    keys = ("hbm", "mma", "port", "decode", "merge", "total", "target")
    names = {row["workload"] for row in found.rows}
    timed = {(kernel, clock) for kernel, name, clock, _ in found.others if name in names}
    others = [(k, c) for k in ("peer", "flashinfer") for c in found.clocks if (k, c) in timed]
    rows = []
    for row in found.rows:
        name = row["workload"]
        ratios = [found.ratio(kernel, name, clock) for kernel, clock in others]
        ours = [f"{row[key]:.1f}" for key in keys]
        rows.append([name, row["path"], *ours, f"{row['total'] / row['target']:.2f}", *ratios])
    titles = [f"{kernel} / now, {clock} GHz" for kernel, clock in others]
    return table_of(["workload", "path", "HBM", "MMA", *keys[2:], "total / target", *titles], rows)


TABLES = dict(zip(NAMES, (totals_table, clocks_table, disputed_table, relaxed_table, users_table), strict=True))


def fill(text: str, found: Found, names: Sequence[str] = NAMES) -> str:
    """The document with those of its tables replaced that `names` has. Raises ValueError where there is none, or it names
    one that there is not."""
    count = 0

    def replaced(match: re.Match) -> str:
        nonlocal count
        if match[2] not in TABLES:
            raise ValueError(f"bench.report: {match[2]}: must be one of {', '.join(NAMES)}")
        if match[2] not in names:
            return match[0]
        count += 1
        return f"{match[1]}\n{TABLES[match[2]](found)}\n{match[3]}"

    filled = _PLACE.sub(replaced, text)
    if not count:
        raise ValueError("the document has no line <!-- bench.report: NAME --> with <!-- end --> behind it")
    return filled


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="what bench.predict --json wrote")
    parser.add_argument("--reference", help="totals of other kernels")
    parser.add_argument("--write", help="the document to put the tables into; printed without")
    parser.add_argument("--table", default=",".join(NAMES), help="these alone, with commas")
    options = parser.parse_args(arguments)
    try:
        chosen = options.table.split(",")
        for name in chosen:
            if name not in NAMES:
                raise ValueError(f"--table {name}: must be one of {', '.join(NAMES)}")
        found = read(options.file, options.reference)
        if options.write:
            path = Path(options.write)
            path.write_text(fill(path.read_text(), found, chosen))
        else:
            print("\n".join(TABLES[name](found) for name in chosen))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
