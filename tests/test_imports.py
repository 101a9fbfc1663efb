"""Who may import whom (left imports right), read from the syntax trees so that imports in functions count too.

tests, bench, scripts -> wrappers, mla, ptx_emulator      and nobody imports these three
wrappers              -> mla, torch; only wrappers/emulated.py -> ptx_emulator; reference.py -> torch alone;
                         only wrappers/engines -> vllm, sglang
ptx_emulator          -> numpy and numba (and llvmlite, which is numba's): it knows PTX and nothing of MLA;
                         only tool/capture.py -> cutlass, which it catches, and pytest_plugin.py -> pytest
mla                   -> cutlass
                         within mla and within ptx_emulator: in the layers below
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.house import imported_modules, module_name

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_PACKAGES = {
    "mla": {"mla", "cutlass", "cuda"},
    "wrappers": {"wrappers", "mla", "torch"},
    "ptx_emulator": {"ptx_emulator", "numpy", "numba", "llvmlite"},
}
EXCEPTIONS = {
    "wrappers.reference": {"torch"},
    "wrappers.emulated": {"wrappers", "mla", "torch", "ptx_emulator"},
    "ptx_emulator.tool.capture": {"ptx_emulator", "numpy", "cutlass"},
    "ptx_emulator.pytest_plugin": {"ptx_emulator", "pytest"},
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
# Likewise the rooms of `ptx_emulator`: its folders, and the modules beside them. Rooms of one layer know nothing of
# each other.
EMULATOR_LAYERS = (
    {"__main__", "pytest_plugin"},
    {"tool"},
    {"timing"},
    {"cute_abi"},
    {"grid"},
    {"report"},
    {"check"},
    {"front", "units"},
    {"machine"},
    {"engine"},
    {"registry"},
    {"command_line"},
    {"errors", "ir", "turns"},
)
LAYERS = {"mla": MLA_LAYERS, "ptx_emulator": EMULATOR_LAYERS}


def layer_of(package: str, room: str) -> int | None:
    return next((index for index, layer in enumerate(LAYERS[package]) if room in layer), None)


def layer_fault(module: str, imported: str) -> str | None:
    """What is wrong with `module` importing `imported` of the same package, both dotted."""
    package, above = module.split(".")[:2]
    if imported == package:
        return f"names no module: import {package}'s modules by name"
    below = imported.split(".")[1]
    if above == below:
        return None
    if layer_of(package, below) is None:
        return f"{package}.{below} has no layer: give it one in LAYERS"
    if layer_of(package, below) < layer_of(package, above):
        return f"{package}.{below} is a layer above {package}.{above}"
    if layer_of(package, below) == layer_of(package, above) and package == "ptx_emulator":
        return f"{package}.{below} and {package}.{above} do not know each other"
    return None


def import_faults(root: Path) -> list[str]:
    """Every forbidden import under `root`, as `module imports name: why`."""
    faults = []
    for package in ALLOWED_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            is_package, module = file.stem == "__init__", module_name(root, file)
            allowed = EXCEPTIONS.get(module, ALLOWED_PACKAGES[package])
            layered = package in LAYERS and module != package
            if layered and layer_of(package, module.split(".")[1]) is None:
                faults.append(f"{module}: has no layer: give it one in LAYERS")
                continue
            for name in sorted(imported_modules(file.read_text(), module, is_package)):
                top = name.split(".")[0]
                if top not in allowed and top not in sys.stdlib_module_names:
                    faults.append(f"{module} imports {name}: only {', '.join(sorted(allowed))} allowed")
                elif top == package and layered and (why := layer_fault(module, name)):
                    faults.append(f"{module} imports {name}: {why}")
    for package in ("scripts", "bench"):
        for file in sorted((root / package).rglob("*.py")):
            module = module_name(root, file)
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
        ("ptx_emulator/units/tma/rules.py", "import torch"),
        ("mla/config.py", "from .causal_mask import k_bound"),
        ("mla/roles/load.py", "from ..decode import kernel"),
        ("mla/arch.py", "import torch"),
        ("mla/unplaced.py", ""),
        ("ptx_emulator/unplaced.py", ""),
        ("ptx_emulator/unplaced/__init__.py", ""),
        ("ptx_emulator/front/decode.py", "from .. import grid"),
        ("ptx_emulator/front/ops/tma.py", "from ...units.tma import rules"),
        ("ptx_emulator/machine/cluster.py", "def late():\n    from ..units.tcgen05 import mma_native"),
        ("ptx_emulator/engine/native.py", "import ptx_emulator.machine.warp"),
        ("ptx_emulator/check/hazards/__init__.py", "from ...timing import Constants"),
        ("ptx_emulator/units/__init__.py", "from ptx_emulator import launch"),
        ("ptx_emulator/errors.py", "from .ir import Imm"),
        ("ptx_emulator/tool/run.py", "def late():\n    import cutlass"),
        ("ptx_emulator/cute_abi/cases.py", "from ..tool.capture import emulate"),
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
        ("ptx_emulator/units/tma/rules.py", "from ...machine.memory import view\nimport numpy"),
        ("ptx_emulator/check/hazards/trace.py", "from .core import merge\nfrom ...engine import state as st"),
        ("ptx_emulator/timing/cluster.py", "def late():\n    from ..machine.cluster import Cluster"),
        ("ptx_emulator/__init__.py", "from .grid import launch"),
        ("ptx_emulator/tool/capture.py", "def late():\n    import cutlass.cute"),
        ("ptx_emulator/pytest_plugin.py", "import pytest\nfrom .tool.capture import emulate"),
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
