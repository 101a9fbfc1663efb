"""docs/house.md shows the structure that the code has, and the drawing shows what is there."""

from __future__ import annotations

import ast
import re

import pytest

from scripts import house

FILES = {
    "mla/__init__.py": '"""Kernels."""',
    "mla/top.py": '"""The top. It has more to say."""\nfrom .left import x\nfrom . import right',
    "mla/left.py": "def late():\n    from mla.base import core",
    "mla/right.py": "import numpy\nimport mla.base.core",
    "mla/base/__init__.py": '"""The base: e.g. this."""',
    "mla/base/core.py": "",
    "wrappers/api.py": "from mla.top import y",
    "wrappers/other.py": "from . import api",
    "wrappers/third.py": "from .fourth import z",
    "wrappers/fourth.py": "from . import third",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_document_shows_the_structure_that_the_code_has():
    assert house.main(["--check", str(house.ROOT / "docs" / "house.md")]) == 0


def definitions(path):
    """Names that a file defines: functions, classes, constants, and Class.member."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef))
        if isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def test_files_and_definitions_that_the_document_names_are_there():
    text = (house.ROOT / "docs" / "house.md").read_text()
    named = re.findall(r"`((?:mla|wrappers|ptx_emulator|tests|docs)/[\w/.]*)(?:: ([\w., ]+))?`", text)
    assert len(named) > 40
    for path, names in named:
        assert (house.ROOT / path).exists(), path
        missing = set(names.split(", ")) - {""} - (definitions(house.ROOT / path) if names else set())
        assert not missing, (path, missing)


def test_rooms_stand_above_what_they_import(root):
    rooms = house.draw_package(root, "mla")
    assert [[room.name for room in floor] for floor in house.floors(rooms)] == [["top"], ["left", "right"], ["base"]]
    assert rooms["top"].says == "The top" and rooms["base"].says == "The base: e.g. this"
    assert rooms["base"].is_folder and rooms["base"].files == ["core"]
    assert rooms["left"].imports == {"base": {"mla.left"}}  # in a function, too


def test_rooms_that_import_each_other_share_a_floor_and_are_marked(root):
    drawing = house.draw(root)
    assert "| 1 | `fourth.py` |  | third (and back) |" in drawing
    assert "| 2 | `other.py` |  | api |" in drawing
    assert "    third --> fourth\n" in drawing and "    fourth --> third\n" in drawing


def test_an_arrow_that_another_way_shows_is_not_drawn(root):
    (root / "mla/top.py").write_text("from . import left, base")
    drawing = house.draw(root)
    assert "    top --> left\n" in drawing and "    top --> base\n" not in drawing
    assert "| base, left |" in drawing


def test_the_whole_names_the_few_modules_behind_an_arrow(root):
    assert "wrappers      -> mla (api only)\nmla\n" in house.draw(root)


def test_a_document_that_says_otherwise_is_found_and_mended(root, monkeypatch, capsys):
    monkeypatch.setattr(house, "draw", lambda: "new")
    file = root / "house.md"
    file.write_text(f"before\n{house.BEGIN}\n\nold\n\n{house.END}\nafter\n")
    assert house.main(["--check", str(file)]) == 1 and "--write" in capsys.readouterr().out
    assert house.main(["--write", str(file)]) == 0 and house.main(["--check", str(file)]) == 0
    assert file.read_text() == f"before\n{house.BEGIN}\n\nnew\n\n{house.END}\nafter\n"


def test_a_document_without_a_place_is_refused(root, capsys):
    file = root / "house.md"
    file.write_text(house.END + house.BEGIN)
    with pytest.raises(SystemExit):
        house.main(["--write", str(file)])
    assert "one place for the drawing" in capsys.readouterr().err
