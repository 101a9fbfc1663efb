"""What has changed in an installed peer or engine since its parameter lists were recorded.

python -m wrappers.compat.changes                    # every peer of this environment
python -m wrappers.compat.changes --at unpacked/     # folders of packages, e.g. of unzipped wheels

Reads sources, imports nothing of a peer and needs no GPU. Exit status 1 where something differs.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from wrappers import command_line
from wrappers.compat.recorded import CONTRACTS, RECORDED, Recorded


def changes(recorded: Recorded, folder: Path) -> list[str]:
    """Differences, one line each, between what was recorded and the package in `folder`; none where they agree."""
    file = folder / recorded.path
    if not file.is_file():
        return [f"{recorded.path} is gone"]
    node = find_function(ast.parse(file.read_text(encoding="utf-8")), recorded.name)
    if node is None:
        return [f"{recorded.path} has no {recorded.name} any more"]
    return differences(parameters(recorded.parameters), parameters_of(node.args, "." in recorded.name))


def find_function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """A function, or a method by its dotted name; the last of several, which is the one behind overloads."""
    *outer, last = name.split(".")
    bodies = [tree.body]
    for each in outer:
        bodies = [node.body for body in bodies for node in body if isinstance(node, ast.ClassDef) and node.name == each]
    found = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef) and node.name == last]
    return found[-1] if found else None


def parameters(text: str) -> dict[str, str]:
    """A recorded list as name -> "kind" or "kind=default", in order."""
    return parameters_of(ast.parse(f"def f({text}): pass").body[0].args, is_method=False)


def parameters_of(given: ast.arguments, is_method: bool) -> dict[str, str]:
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    found = {each.arg: described("positional", value) for each, value in zip(positional, defaults, strict=True)}
    if is_method:
        for first in ("self", "cls"):
            found.pop(first, None)
    for kind, each in (("*", given.vararg), ("**", given.kwarg)):
        if each is not None:
            found[kind + each.arg] = kind
    keywords = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return found | {each.arg: described("keyword", value) for each, value in keywords}


def described(kind: str, default: ast.expr | None) -> str:
    return kind if default is None else f"{kind}={ast.unparse(default)}"


def differences(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    lines = [f"new parameter {name} ({found[name]})" for name in found if name not in recorded]
    lines += [f"parameter {name} is gone" for name in recorded if name not in found]
    shared = [name for name in recorded if name in found]
    lines += [
        f"parameter {name} was {recorded[name]}, is {found[name]}"
        for name in shared
        if not same_default(recorded[name], found[name])
    ]
    if shared != [name for name in found if name in recorded]:
        lines.append(f"the order was {', '.join(shared)}, is {', '.join(name for name in found if name in recorded)}")
    return lines


def same_default(recorded: str, found: str) -> bool:
    """A default that the peer computes from names, e.g. `1 / LOG2_E`, is not compared, only that there is one."""
    computed = re.search(r"\b[A-Z_][A-Z0-9_]{2,}\b", found.partition("=")[2])
    return recorded.partition("=")[0] == found.partition("=")[0] if computed and "=" in recorded else recorded == found


def installed_folder(package: str, root: Path | None) -> Path | None:
    if root is not None:
        places = [root / package, *sorted(root.glob(f"*/{package}"))]
        return next((place for place in places if place.is_dir() and any(place.glob("*.py"))), None)
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(prog="python -m wrappers.compat.changes")
    parser.add_argument("--at", type=Path, help="a folder with the packages' folders, or one level above")
    options = parser.parse_args(arguments)
    if options.at is not None and not options.at.is_dir():
        parser.error(f"--at {options.at}: is not a folder")
    report, status = [], 0
    for recorded in (*RECORDED, *CONTRACTS):
        folder = installed_folder(recorded.package, options.at)
        where = f"{recorded.distribution} {recorded.version} {recorded.name}"
        if folder is None:
            report.append(f"{where}: not installed")
            continue
        lines = changes(recorded, folder)
        report += [f"{where}: {'changed' if lines else 'as recorded'}", *(f"  {line}" for line in lines)]
        status = 1 if lines else status
    print("\n".join(report))
    return status


if __name__ == "__main__":
    command_line.run(main)
