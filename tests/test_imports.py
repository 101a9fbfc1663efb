"""Who may import whom (left imports right), read from the syntax trees so that imports in functions count too.

tests, bench, scripts -> wrappers, mla, ptx_emulator      and nobody imports these three
wrappers              -> mla, torch; only wrappers/emulated.py -> ptx_emulator; reference.py -> torch alone;
                         only wrappers/engines -> vllm, sglang
ptx_emulator          -> numpy, numba and the llvmlite that numba brings: it knows PTX and nothing of MLA
mla                   -> cutlass, in the layers below
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_PACKAGES = {
    "mla": {"mla", "cutlass", "cuda"},
    "wrappers": {"wrappers", "mla", "torch"},
    "ptx_emulator": {"ptx_emulator", "numpy", "numba", "llvmlite"},
}
EXCEPTIONS = {
    "wrappers.reference": {"torch"},
    "wrappers.emulated": {"wrappers", "mla", "torch", "ptx_emulator"},
    "wrappers.engines": {"wrappers", "vllm"},
    "wrappers.engines.vllm": {"wrappers", "mla", "torch", "vllm"},
    "wrappers.engines.sglang": {"wrappers", "mla", "torch", "sglang"},
}
# A module of `mla` imports modules of its own layer or of layers further down, never up.
MLA_LAYERS = (
    {"compile"},
    {"store"},
    {"decode"},
    {"roles", "reduction"},
    {"paths"},
    {"operands"},
    {"context"},
    {"softmax", "varlen", "page_ring"},
    {"tile_scheduler"},
    {"plan"},
    {"split_kv"},
    {"causal_mask", "pipelines", "warp_schedule"},
    {"config"},
    {"arch"},
)


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


def layer_of(name: str) -> int | None:
    return next((index for index, layer in enumerate(MLA_LAYERS) if name in layer), None)


def mla_fault(module: str, imported: str) -> str | None:
    """What is wrong with `mla` module `module` importing `imported`, both dotted."""
    if imported == "mla":
        return "names no module: import mla's modules by name"
    above, below = (name.split(".")[1] for name in (module, imported))
    if above == below:
        return None
    if layer_of(below) is None:
        return f"mla.{below} has no layer: give it one in MLA_LAYERS"
    if layer_of(below) < layer_of(above):
        return f"mla.{below} is a layer above mla.{above}"
    return None


def import_faults(root: Path) -> list[str]:
    """Every forbidden import under `root`, as `module imports name: why`."""
    faults = []
    for package in ALLOWED_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            is_package = file.stem == "__init__"
            parts = file.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if is_package else parts)
            allowed = EXCEPTIONS.get(module, ALLOWED_PACKAGES[package])
            if package == "mla" and not is_package and layer_of(parts[1]) is None:
                faults.append(f"{module}: has no layer: give it one in MLA_LAYERS")
                continue
            for name in sorted(imported_modules(file.read_text(), module, is_package)):
                top = name.split(".")[0]
                if top not in allowed and top not in sys.stdlib_module_names:
                    faults.append(f"{module} imports {name}: only {', '.join(sorted(allowed))} allowed")
                elif top == package == "mla" and not is_package and (why := mla_fault(module, name)):
                    faults.append(f"{module} imports {name}: {why}")
    for package in ("scripts", "bench"):
        for file in sorted((root / package).rglob("*.py")):
            module = ".".join(file.relative_to(root).with_suffix("").parts)
            for name in sorted(imported_modules(file.read_text(), module, file.stem == "__init__")):
                if name.split(".")[0] in {"tests", "scripts", "bench"} - {package}:
                    faults.append(f"{module} imports {name}: nobody imports tests, scripts or bench")
    return faults


def test_no_forbidden_imports():
    assert import_faults(ROOT) == []


def import_circle(root: Path, package: str) -> list[str]:
    """Modules of `package` each of which imports the next and the last the first, on use or not; empty without any."""
    files = {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted((root / package).rglob("*.py"))
    }
    graph = {
        module: sorted({name if name in files else name.rpartition(".")[0] for name in names} & set(files) - {module})
        for module, file in files.items()
        for names in [imported_modules(file.read_text(), module, file.stem == "__init__")]
    }
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        found = next(filter(None, (walk(below, [*path, module]) for below in graph[module])), [])
        done.add(module)
        return found

    return next(filter(None, (walk(module, []) for module in graph)), [])


def test_no_module_of_wrappers_imports_one_that_imports_it():
    assert import_circle(ROOT, "wrappers") == []


def test_a_circle_is_found(tmp_path):
    (tmp_path / "wrappers").mkdir()
    for name, below in (("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")):
        (tmp_path / "wrappers" / f"{name}.py").write_text(f"def late():\n    from wrappers import {below}")
    assert import_circle(tmp_path, "wrappers") == ["wrappers.b", "wrappers.c"]


@pytest.mark.parametrize(
    "file, source",
    [
        ("wrappers/decode.py", "import ptx_emulator"),
        ("wrappers/decode.py", "def late():\n    from ptx_emulator.grid import launch"),
        ("wrappers/reference.py", "from wrappers.validate import HEAD_DIM"),
        ("wrappers/validate.py", "import numpy as np"),
        ("ptx_emulator/grid.py", "from mla.config import MlaDecodeConfig"),
        ("ptx_emulator/ops/tma.py", "import torch"),
        ("mla/config.py", "from .causal_mask import k_bound"),
        ("mla/roles/load.py", "from ..decode import kernel"),
        ("mla/arch.py", "import torch"),
        ("mla/unplaced.py", ""),
        ("mla/decode.py", "from mla import unplaced"),
        ("wrappers/testing.py", "import tests.conftest"),
        ("bench/decode.py", "from scripts import validate"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, source):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert len(import_faults(tmp_path)) == 1


@pytest.mark.parametrize(
    "file, source",
    [
        ("wrappers/emulated.py", "from ptx_emulator import launch\nfrom mla.compile import compile_decode"),
        ("ptx_emulator/ops/tma.py", "from ..memory import Memory\nimport numpy"),
        (
            "mla/roles/load.py",
            "from ..paths.narrow import NarrowPath\nfrom mla import config\nimport cutlass.cute",
        ),
        ("scripts/validate.py", "from wrappers import testing\nimport mla.compile, ptx_emulator"),
    ],
)
def test_an_allowed_import_passes(tmp_path, file, source):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert import_faults(tmp_path) == []
