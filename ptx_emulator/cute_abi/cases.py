"""Kernels with arguments, as a Python file gives them to the commands of `python -m ptx_emulator`.

    def arguments(**options): return ir, ptx, host_args     # of a call of cute_abi.launch
    def check(host_args): assert ...                        # optional: whether the result is right
    def buffers(host_args): return [array, ...]             # optional: memory that is reached only through addresses

`host_args` may be a mapping: its keys are what reports call the arrays. With a dump folder (`--dump`,
cute_abi.read_dump) the texts are that folder's and `arguments` returns `host_args` alone. PTX that no CuTe DSL host
function launches is given as `(None, ptx, keywords)`, the keyword arguments of `ptx_emulator.launch`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..report import Report
from .values import flatten_arguments, is_array


@dataclass(frozen=True)
class Case:
    """ir: None where the PTX is launched directly. given: the arguments as the file returned them; names: what reports
    call the arrays; buffers: further ones; judge: the file's `check`, if it has one."""

    ir: str | None
    ptx: str
    given: Any
    names: Mapping[str, Any]
    buffers: Sequence[Any] = ()
    judge: Callable[[Any], Any] | None = None

    @property
    def host_args(self) -> list[Any]:
        return list(self.given.values()) if isinstance(self.given, Mapping) else list(self.given)

    @property
    def arrays(self) -> dict[str, Any]:
        """All memory that the kernel may reach, by name."""
        return {**self.names, **{f"buffers[{i}]": array for i, array in enumerate(self.buffers)}}

    def launch(self, ptx: str | None = None, **options: Any) -> list[Report]:
        """Runs the kernel, or another text of it; a report per launch. `options` as for `ptx_emulator.launch`."""
        from ..grid import launch as launch_ptx
        from . import launch

        text = self.ptx if ptx is None else ptx
        if self.ir is None:
            return [launch_ptx(text, **{**self.given, **options})]
        return launch(self.ir, text, self.host_args, names=self.names, buffers=self.buffers, **options)

    def fault(self) -> str:
        """What the case's `check` finds wrong with the result; "" if nothing, or if it has none."""
        if self.judge is None:
            return ""
        try:
            verdict = self.judge(self.given)
        except AssertionError as error:
            return " ".join(str(error).split())[:300] or "its check failed"
        return "its check returned False" if verdict is False else ""


def load_case(path: str) -> ModuleType:
    """The module of a Python file that has `arguments`. Raises ValueError."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec.loader.exec_module(module)
    if not callable(getattr(module, "arguments", None)):
        raise ValueError(f"{path}: has no function `arguments`")
    return module


def read_case(path: str, options: Mapping[str, Any], dump: str | None = None) -> Case:
    """The case of a Python file, whose `arguments` are called with `options`. Raises ValueError."""
    from . import read_dump

    texts = read_dump(dump) if dump is not None else None
    module = load_case(path)
    returned = module.arguments(**options)
    if texts is not None:
        (ir, ptx), given = texts, returned
    elif isinstance(returned, tuple) and len(returned) >= 3 and isinstance(returned[1], str):
        ir, ptx, given = returned[:3]
    else:
        raise ValueError(
            f"{path}: `arguments` must return (IR text, PTX text, host arguments), or be given with --dump"
        )
    if ir is None:
        if not isinstance(given, Mapping):
            raise ValueError(f"{path}: without IR the third value must be the keyword arguments of ptx_emulator.launch")
        buffers = given.get("buffers", ())
        numbered = {f"buffers[{i}]": buffer for i, buffer in enumerate(buffers)}
        names = dict(buffers) if isinstance(buffers, Mapping) else numbered
    elif isinstance(given, Mapping):
        names = {name: value for name, value in given.items() if is_array(value)}
        names |= {
            f"{name}[{i}]": leaf
            for name, value in given.items()
            if isinstance(value, tuple | list)
            for i, leaf in enumerate(flatten_arguments(value))
        }
    else:
        names = {f"argument {i}": value for i, value in enumerate(flatten_arguments(given))}
    further = getattr(module, "buffers", None) if ir is not None else None
    return Case(ir, ptx, given, names, list(further(given)) if further else (), getattr(module, "check", None))
