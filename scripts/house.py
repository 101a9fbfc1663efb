"""The structure of the repository, drawn from the imports of its code.

    python -m scripts.house [--write docs/house.md | --check docs/house.md]

prints it; `--write` puts it into a document, between the lines BEGIN and END; `--check` says whether the document has
it already (exit status 1 if not). A room is a package's folder or module. A floor stands above all that its rooms import;
rooms that import each other share a floor and are marked. Imports in functions count.
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tests", "scripts", "bench", "wrappers", "ptx_emulator", "mla")
DRAWN = ("mla", "wrappers", "ptx_emulator")  # room by room
BEGIN, END = "<!-- drawn by scripts/house.py: begin -->", "<!-- drawn by scripts/house.py: end -->"
BACK = " (and back)"
NAMED = 3  # as many importing modules are named behind an arrow of the whole


def imported_modules(source: str, module: str, is_package: bool) -> set[str]:
    """Absolute dotted names that a file imports; `from a import b` counts as `a.b`."""
    names = set()
    parts = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = node.level - 1 if is_package else node.level
            package = parts[: len(parts) - above] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def module_name(root: Path, file: Path) -> str:
    """The dotted name of a file; a package's is that of its folder."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass
class Room:
    """says: the first sentence of its docstring; files: those of a folder, without .py; imports: other rooms -> the
    modules here that import them."""

    name: str
    says: str = ""
    is_folder: bool = False
    files: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)


def _first_sentence(text: str) -> str:
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"\.(?=\s+[A-Z`]|$)", paragraph, maxsplit=1)[0]


def _draw_rooms(root: Path, folders: Sequence[Path], room_of) -> dict[str, Room]:
    """The rooms of all files below `folders`. room_of: dotted name -> room, "" for none."""
    rooms: dict[str, Room] = {}
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        module, source = module_name(root, file), file.read_text()
        name = room_of(module)
        if not name:
            continue
        room = rooms.setdefault(name, Room(name))
        if module == name or module.endswith(f".{name}"):
            room.says = _first_sentence(ast.get_docstring(ast.parse(source)))
            room.is_folder = file.stem == "__init__"
        elif file.stem != "__init__":
            room.files.append(module.partition(f"{name}.")[2].replace(".", "/"))
        for imported in imported_modules(source, module, file.stem == "__init__"):
            other = room_of(imported)
            if other and other != name:
                room.imports.setdefault(other, set()).add(module)
    for room in rooms.values():
        room.imports = {other: modules for other, modules in room.imports.items() if other in rooms}
    return rooms


def draw_whole(root: Path) -> dict[str, Room]:
    """The repository's packages as rooms."""

    def room_of(name: str) -> str:
        top = name.split(".")[0]
        return top if top in PACKAGES else ""

    return _draw_rooms(root, [root / package for package in PACKAGES], room_of)


def draw_package(root: Path, package: str) -> dict[str, Room]:
    """A package's folders and modules as rooms; its `__init__` is none."""
    folder = root / package

    def room_of(name: str) -> str:
        parts = name.split(".")
        if parts[0] != package or len(parts) < 2:
            return ""
        path = folder / parts[1]
        return parts[1] if path.is_dir() or path.with_suffix(".py").exists() else ""

    return _draw_rooms(root, [folder], room_of)


def floors(rooms: dict[str, Room]) -> list[list[Room]]:
    """The rooms from the top floor down."""
    reached = {name: _reached(rooms, name) for name in rooms}

    @functools.cache
    def circle(name: str) -> frozenset[str]:
        return frozenset({name} | {other for other in reached[name] if name in reached[other]})

    @functools.cache
    def height(members: frozenset[str]) -> int:
        below = {circle(other) for name in members for other in rooms[name].imports} - {members}
        return 1 + max((height(other) for other in below), default=0)

    heights = {name: height(circle(name)) for name in rooms}
    return [
        [rooms[name] for name in sorted(rooms) if heights[name] == floor]
        for floor in range(max(heights.values(), default=0), 0, -1)
    ]


def _reached(rooms: dict[str, Room], start: str) -> set[str]:
    reached, ahead = set(), [start]
    while ahead:
        for other in rooms[ahead.pop()].imports:
            if other not in reached:
                reached.add(other)
                ahead.append(other)
    return reached


def _files(room: Room) -> str:
    """A folder's files, those of its folders in brackets."""
    inner: dict[str, list[str]] = {}
    for name in room.files:
        folder, _, file = name.rpartition("/")
        inner.setdefault(folder, []).append(file)
    own = inner.pop("", [])
    return ", ".join([*own, *(f"{folder}/ ({', '.join(files)})" for folder, files in sorted(inner.items()))])


def _table(rooms: dict[str, Room]) -> list[str]:
    """A row per room: floor, name, what it says and its files, what it imports."""
    lines = ["| floor | room | what is in it | imports |", "|---:|---|---|---|"]
    drawn = floors(rooms)
    for number, floor in zip(range(len(drawn), 0, -1), drawn, strict=True):
        for room in floor:
            name = f"`{room.name}{'/' if room.is_folder else '.py'}`"
            back = {other for other in room.imports if room.name in _reached(rooms, other)}
            others = ", ".join(other + BACK * (other in back) for other in sorted(room.imports))
            says = "<br>".join(filter(None, (room.says, _files(room))))
            lines.append(f"| {number} | {name} | {says} | {others} |")
    return lines


def _graph(rooms: dict[str, Room]) -> list[str]:
    """Mermaid: an arrow from each room to those that it imports, but for those that it reaches by another way."""
    lines = ["```mermaid", "graph TD"]
    for room in sorted(rooms.values(), key=lambda room: room.name):
        for other in sorted(room.imports):
            others = room.imports.keys() - {other}
            if room.name in _reached(rooms, other) or not any(other in _reached(rooms, way) for way in others):
                lines.append(f"    {room.name} --> {other}")
    return [*lines, "```"]


def _whole(rooms: dict[str, Room]) -> list[str]:
    lines = ["```"]
    for floor in floors(rooms):
        for room in floor:
            arrows = []
            for other, modules in sorted(room.imports.items()):
                named = [name.removeprefix(f"{room.name}.") for name in sorted(modules)]
                arrows.append(f"{other} ({', '.join(named)} only)" if len(named) <= NAMED else other)
            lines.append(f"{room.name:<13} -> {', '.join(arrows)}" if arrows else room.name)
    return [*lines, "```"]


def draw(root: Path = ROOT) -> str:
    """All of it, as Markdown."""
    parts = ["### The whole", "", *_whole(draw_whole(root))]
    for package in DRAWN:
        rooms = draw_package(root, package)
        parts += ["", f"### `{package}/`", "", *_graph(rooms), "", *_table(rooms)]
    return "\n".join(parts)


def written(document: str, drawing: str) -> str:
    """The document with the drawing in its place. Raises ValueError if it has no such place."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"document: has not one place for the drawing, {BEGIN} before {END}")
    before, after = document.split(BEGIN)[0], document.split(END)[1]
    return f"{before}{BEGIN}\n\n{drawing}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.house", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--write", type=Path, metavar="FILE")
    either.add_argument("--check", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    drawing, file = draw(), options.write or options.check
    if not file:
        print(drawing)
        return 0
    try:
        document = file.read_text()
        new = written(document, drawing)
    except (OSError, ValueError) as error:
        parser.error(f"{file}: {error}")
    if options.write:
        file.write_text(new)
    elif document != new:
        print(f"{file}: not what the code says: python -m scripts.house --write {file}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
