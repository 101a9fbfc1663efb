"""Compiled code on disk is dropped when the sources of its group change, and only then."""

from __future__ import annotations

import re

import pytest

from ptx_emulator.engine import cache

# A file of each group.
SOURCES = {
    "engine": "engine/loop.py",
    "native": "units/tma/load_native.py",
    "hazards": "check/hazards/core.py",
    "timing": "timing/engine.py",
}


@pytest.fixture
def package(tmp_path):
    """A package with a source and compiled code of it in each group."""
    for name in (*SOURCES.values(), "units/swizzle.py", "front/decode.py"):
        path = tmp_path / name
        (path.parent / "__pycache__").mkdir(parents=True, exist_ok=True)
        path.write_text("1")
        code_of(path).write_text("code")
    cache.drop_stale_code(tmp_path)
    for name in SOURCES.values():
        code_of(tmp_path / name).write_text("code")
    return tmp_path


def code_of(path):
    return path.parent / "__pycache__" / f"{path.stem}.run-1.py311.1.nbc"


@pytest.mark.parametrize(
    "changed, dropped",
    [
        ("engine/loop.py", set(SOURCES)),
        ("units/tma/load_native.py", {"native", "hazards", "timing"}),
        ("units/swizzle.py", {"native", "hazards", "timing"}),
        ("check/hazards/core.py", {"hazards"}),
        ("timing/engine.py", {"timing"}),
        ("front/decode.py", set()),
    ],
)
def test_a_change_drops_what_was_compiled_from_it(package, changed, dropped):
    cache.drop_stale_code(package)
    assert all(code_of(package / name).exists() for name in SOURCES.values())
    (package / changed).write_text("2")
    cache.drop_stale_code(package)
    assert {group for group, name in SOURCES.items() if not code_of(package / name).exists()} == dropped
    assert code_of(package / "front/decode.py").exists()


def test_every_compiled_module_is_in_a_group():
    dropped = {
        path for _, patterns in cache.GROUPS.values() for pattern in patterns for path in cache.PACKAGE.glob(pattern)
    }
    compiled = {
        path
        for path in cache.PACKAGE.rglob("*.py")
        if re.search(r"^@(njit|nat\.native)|cfunc\(", path.read_text(), re.M)
    }
    assert len(compiled) > 20 and compiled <= dropped
