"""Launches CuTe DSL kernels in the emulator from the texts that the compiler writes.

`CUTE_DSL_KEEP=ir,ptx` (with `CUTE_DSL_DUMP_DIR`, and `CUTE_DSL_DISABLE_FILE_CACHING=1` so that the two belong
together) leaves a PTX file and the IR of the whole module: the types of every kernel argument, and the host function
that computes them. `launch` interprets that host function with the caller's arrays and numbers, packs each kernel's
`.param` bytes, checks them against the PTX, and runs the kernels in the order of the host function's launches.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..turns import takes_turns
from . import layouts
from .host import cute as _host_cute  # noqa: F401 (registers operations)
from .host import launch as _host_launch  # noqa: F401 (registers operations)
from .host import memory as _host_memory  # noqa: F401 (registers operations)
from .host import scalars as _host_scalars  # noqa: F401 (registers operations)
from .host.interpreter import STREAM, Host, UnsupportedHostOperation, leaf_count
from .params import Blob, check_params, pack_value, ptx_params
from .spread import spread_rows
from .text import KernelText, ModuleText, parse_module
from .types import MemrefType, Type, carries_state, parse_type
from .values import buffers_of, flatten_arguments, is_array, view_array

__all__ = [
    "ArgSpec",
    "KernelSpec",
    "PlannedLaunch",
    "UnsupportedHostOperation",
    "launch",
    "pack",
    "parse_ir",
    "plan",
    "read_dump",
    "stream_arguments",
]

Dim3 = tuple[int, int, int]


@dataclass(frozen=True)
class ArgSpec:
    """One kernel argument: its position, printed type, and that type read. Static ones occupy no `.param`."""

    index: int
    text: str
    type: Type

    @property
    def is_passed(self) -> bool:
        return carries_state(self.type)


@dataclass(frozen=True)
class KernelSpec:
    """A kernel as its IR header states it; `block`, `cluster`, `grid` are None where they are not static.

    `shared_bytes` is the dynamic shared memory: the launch's explicit size, else what the kernel's allocations take.
    """

    name: str
    args: tuple[ArgSpec, ...]
    block: Dim3 | None
    cluster: Dim3 | None
    grid: Dim3 | None
    shared_bytes: int


@dataclass(frozen=True)
class PlannedLaunch:
    """A launch that the host function makes: `values[i]` belongs to `spec.args[i]` (None where nothing is passed).

    `dependent`: a programmatic dependent launch, which may start before the launch before it has ended.
    """

    spec: KernelSpec
    grid: Dim3
    block: Dim3
    cluster: Dim3
    shared_bytes: int
    values: tuple[Any, ...]
    dependent: bool = False


@functools.lru_cache(maxsize=64)
def _module(ir_text: str) -> ModuleText:
    return parse_module(ir_text)


@functools.lru_cache(maxsize=64)
def _specs(ir_text: str) -> dict[str, KernelSpec]:
    module = _module(ir_text)
    return {name: _spec(kernel, module) for name, kernel in module.kernels.items()}


def parse_ir(ir_text: str) -> dict[str, KernelSpec]:
    """The kernels of a dumped module, by name. Raises ValueError for text that is not such a module."""
    return dict(_specs(ir_text))


def _spec(kernel: KernelText, module: ModuleText) -> KernelSpec:
    texts = [module.aliases.get(text, text) for text in kernel.argument_types]
    args = tuple(ArgSpec(i, text, parse_type(text, module.aliases)) for i, text in enumerate(texts))
    explicit = re.search(r"smem\.config_smem_size = (\d+)", kernel.attributes)
    return KernelSpec(
        name=kernel.name,
        args=args,
        block=_dims(kernel.attributes, "exact_block_dim"),
        cluster=_dims(kernel.attributes, "exact_cluster_dim"),
        grid=_dims(kernel.attributes, "exact_grid_dim"),
        shared_bytes=int(explicit.group(1)) if explicit else _allocated_bytes(kernel.allocations, 0, module),
    )


def _dims(attributes: str, name: str) -> Dim3 | None:
    match = re.search(rf"{name} = array<i64: (\d+), (\d+), (\d+)>", attributes)
    return tuple(int(word) for word in match.groups()) if match else None


def _allocated_bytes(items: list[Any], end: int, module: ModuleText) -> int:
    """The end of shared allocations placed in order from `end`, each at its alignment; alternatives overlap."""
    for item in items:
        if isinstance(item, list):
            end = max(_allocated_bytes(alternative, end, module) for alternative in item)
            continue
        partition, text = item
        type_ = parse_type(text, module.aliases)
        if partition != 1 or not isinstance(type_, MemrefType) or type_.element != "i8":
            raise ValueError(f"shared allocation {text} in partition {partition}: not known")
        end += -end % type_.align + layouts.cosize(type_.layout)
    return end


def plan(ir_text: str, host_args: Sequence[Any]) -> list[PlannedLaunch]:
    """The launches that the module's host function makes when it is called with `host_args`.

    `host_args` are given as to the compiled function under tvm-ffi: no constexprs, no stream; None stands for an
    argument that was None at compile time; tuples are flattened. Tensors are numpy arrays or torch CPU tensors
    (unsigned integers of the element's width stand for bfloat16 and float8). Raises TypeError or ValueError for
    arguments that do not fit what was compiled, UnsupportedHostOperation (naming the operation) where a launch
    depends on one that the interpreter lacks.
    """
    specs = _specs(ir_text)
    host = Host(_module(ir_text), lambda name: specs[name].shared_bytes)
    planned = []
    for made in host.run(list(host_args)):
        config = made.config
        if min(*config.grid, *config.block, *config.cluster) < 1:
            raise ValueError(f"kernel {made.kernel}: grid {config.grid}, block {config.block}: empty launch")
        spec = specs[made.kernel]
        planned.append(
            PlannedLaunch(
                spec, config.grid, config.block, config.cluster, config.shared_bytes, made.values, config.dependent
            )
        )
    return planned


def stream_arguments(ir_text: str, count: int) -> set[int]:
    """Which of the `count` flattened arguments of a call are streams, which `plan` does not take; none if the call has
    none (where the compiled function finds its stream itself)."""
    module, streams, index = _module(ir_text), set(), 0
    for _, text in module.host_arguments:
        if text == STREAM:
            streams.add(index)
        index += 1 if text == STREAM else leaf_count(parse_type(text, module.aliases))
    return streams if count == index else set()


def pack(spec: KernelSpec, values: Sequence[Any] | Mapping[int, Any], ptx_text: str | None = None) -> list[bytes]:
    """A kernel's `.param` bytes, one entry per passed argument.

    `values` holds one value per argument of `spec.args` (a sequence, or a mapping by index; static arguments may be
    None or absent): an array for a tensor, a `TensorMap` for a TMA atom, a shape for a coordinate tensor, a number
    for a scalar, a divisor for a fast_divmod, None for a tiled MMA in its default state. With `ptx_text`, sizes and
    alignments are checked against that entry's `.param`s. Raises TypeError or ValueError naming the argument.
    """
    if not isinstance(values, Mapping):
        if len(values) != len(spec.args):
            raise ValueError(f"kernel {spec.name} has {len(spec.args)} arguments, got {len(values)} values")
        values = dict(enumerate(values))
    packed: list[tuple[str, Blob]] = []
    for arg in spec.args:
        if arg.is_passed:
            what = f"kernel argument {arg.index} ({arg.text[:100]})"
            packed.append((what, pack_value(arg.type, values.get(arg.index), what)))
    if ptx_text is not None:
        check_params(ptx_params(ptx_text, spec.name), packed)
    return [blob.data for _, blob in packed]


@takes_turns
def launch(
    ir_text: str,
    ptx_text: str,
    host_args: Sequence[Any],
    *,
    buffers: Sequence[Any] = (),
    names: Mapping[str, Any] | None = None,
    spread: Sequence[str] = (),
    before: Sequence[Any] = (),
    **options: Any,
) -> list[Any]:
    """Runs the host function's launches in the emulator; returns one report per launch.

    `host_args` as for `plan`; the arrays among them, and `buffers`, are the memory that the kernels may access (a
    kernel that finds addresses in its arguments needs the arrays there named). `names`: what reports call arrays;
    "argument 0", ... unless given. `spread`: of these, arrays that are copied for the launch, and back after it, with
    room between their rows, so that an access behind the end of a row is seen (with checks, as `row-overrun`); the
    kernel must have been compiled for any strides of theirs but the last dimension's. `before`: launches of other
    kernels that stand before these in the stream (`ptx_emulator.grid.prepare_launch`), of which a programmatic dependent
    launch need not see the effects before its griddepcontrol.wait; their reports are not returned. `options` go to
    `ptx_emulator.launch` (`order`, `seed`, `checks`, `step_limit`, ...): limits are those of each launch; the launches
    share one checker.
    """
    from ..grid import prepare_launch, run_grids

    flat = list(flatten_arguments(host_args))
    if names is None:
        names = {f"argument {i}": value for i, value in enumerate(flat)}
    if spread:
        apart = spread_rows(host_args, names, spread)
        try:
            plan(ir_text, apart.args)
        except ValueError as error:
            raise ValueError(f"spread={list(spread)}: {error}") from error
        try:
            return launch(ir_text, ptx_text, apart.args, buffers=buffers, names=apart.names, before=before, **options)
        finally:
            apart.write_back()
    regions = _named_regions(buffers_of([*flat, *buffers]), names)
    if options.get("checks") is True:
        from ..check.hazards import Checker  # compiled code that launches without checks do not load

        options["checks"] = Checker(options.pop("suppress", None))
    grids = []
    for item in plan(ir_text, host_args):
        grids.append(
            prepare_launch(
                ptx_text,
                item.spec.name,
                grid=item.grid,
                block=item.block,
                cluster=item.cluster,
                shared_bytes=item.shared_bytes,
                params=pack(item.spec, item.values, ptx_text),
                buffers=regions,
                names=names,
                dependent=item.dependent,
                **options,
            )
        )
    return run_grids([*before, *grids])[len(before) :]


def _named_regions(regions: Sequence[Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Memory regions by the names of the arrays that begin in them."""
    found = {}
    for i, region in enumerate(regions):
        start = region.ctypes.data
        arrays = [
            name
            for name, value in names.items()
            if is_array(value) and start <= view_array(value, name).address < start + region.nbytes
        ]
        found[", ".join(arrays) or f"buffers[{i}]"] = region
    return found


def read_dump(folder: str | Path) -> tuple[str, str]:
    """(IR text, PTX text) of the one compilation dumped in a folder; raises ValueError if there is not exactly one."""
    texts = []
    for pattern in ("*_clean.mlir", "*.ptx"):
        paths = sorted(Path(folder).glob(pattern))
        if len(paths) != 1:
            raise ValueError(f"{folder}: expected one {pattern}, found {len(paths)}: use a fresh dump folder")
        texts.append(paths[0].read_text())
    return texts[0], texts[1]
