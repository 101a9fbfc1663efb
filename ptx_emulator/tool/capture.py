"""Runs a CuTe DSL script without a GPU: what it compiles is kept, and its launches are executed by the emulator.

    with ptx_emulator.emulate(orders=["in_order", "random"], seeds=3, checks=True) as emulation:
        runpy.run_path("script.py")
    print(emulation.hazards, emulation.differences)

Caught are `cute.compile` (however it was imported) and calls of `@cute.jit` functions. Arrays must be in CPU memory:
torch CPU tensors, numpy arrays, `from_dlpack` of either.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from .. import cute_abi
from ..machine.cluster import SMS
from ..machine.watchdog import Limits
from .host_arguments import host_arguments
from .schedules import Schedule, Trial, schedules, try_schedules

MISSING = "emulate() needs CuTe DSL, which is not installed: pip install nvidia-cutlass-dsl"
ARCH = "sm_100a"
L2_BYTES = 126 * 10**6  # of a B200 (Chips and Cheese); scripts size their working sets by it


@dataclass
class Emulation:
    """What `emulate` runs its launches with, and what came of them. calls: of each call of a compiled function, a trial
    per schedule."""

    schedules: list[Schedule]
    checks: bool = False
    suppress: str | None = None
    time_limit: float | None = None
    buffers: Sequence[Any] = ()
    calls: list[list[Trial]] = field(default_factory=list)

    @property
    def hazards(self) -> list[Any]:
        """What the race checker found, of all calls."""
        return [hazard for trials in self.calls for trial in trials for hazard in trial.hazards]

    @property
    def differences(self) -> list[str]:
        """Where a schedule ended with another result than the first one."""
        return [
            f"call {number}, {trial.reports[0].kernel if trial.reports else ''}, {trial.schedule}: {trial.differs}"
            for number, trials in enumerate(self.calls)
            for trial in trials
            if trial.differs
        ]

    def call(self, ir: str, ptx: str, given: Mapping[str, Any]) -> None:
        """Executes one call of a compiled function, with its arguments by name. Raises the first EmulationError."""
        args, names = host_arguments(ir, given)

        def launch(**schedule: Any) -> list[Any]:
            options = {"checks": True, "suppress": self.suppress} if self.checks else {}
            return cute_abi.launch(
                ir, ptx, args, names=names, buffers=self.buffers, time_limit=self.time_limit, **options, **schedule
            )

        arrays = {**names, **{f"buffers[{i}]": array for i, array in enumerate(self.buffers)}}
        trials = try_schedules(launch, arrays, self.schedules)
        self.calls.append(trials)
        for trial in trials:
            if trial.error is not None:
                raise trial.error


class EmulatedFunction:
    """A function that `cute.compile` made during `emulate`. Called during one, it runs in the emulator; otherwise, and
    for everything else, it is the compiled function. ir, ptx: its texts, as `cute_abi.launch` takes them."""

    def __init__(self, compiled: Any):
        self._compiled = compiled
        self.ir: str = compiled.artifacts.MLIR
        self.ptx: str = compiled.artifacts.PTX.rstrip("\0")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _active:
            return self._compiled(*args, **kwargs)
        signature = self._compiled.execution_args.signature
        bound = signature.bind_partial(*args, **kwargs)
        bound.apply_defaults()
        self.launch(bound.arguments)
        return None

    def launch(self, arguments: dict[str, Any]) -> None:
        """`arguments`: those of the host function that are not constants, by name."""
        _active[-1].call(self.ir, self.ptx, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)


_active: list[Emulation] = []  # the innermost is last
_entering = threading.Lock()
_patches = ExitStack()


@contextmanager
def emulate(
    *,
    orders: Sequence[str] = ("in_order",),
    seeds: int = 1,
    checks: bool = False,
    suppress: str | os.PathLike | None = None,
    time_limit: float | None = None,
    buffers: Sequence[Any] = (),
) -> Iterator[Emulation]:
    """CuTe DSL kernels that are compiled here run on the CPU. Yields the Emulation, whose `calls` grow.

    orders, seeds  every call is executed in each order, `random` and `adversarial` with `seeds` seeds, from the same
                   memory; what the first schedule leaves is what the script sees
    checks         follow memory accesses (hazards of the Emulation); suppress: a file of those that are accepted
    time_limit     seconds that a launch may take
    buffers        arrays that kernels reach only through addresses (`make_ptr`)

    The code is compiled for sm_100a unless CUTE_DSL_ARCH says otherwise. Raises ImportError without CuTe DSL,
    ValueError for wrong options, EmulationError out of a call that goes wrong.
    """
    if suppress is not None and not checks:
        raise ValueError(f"suppress={str(suppress)!r}: needs checks=True")
    Limits(seconds=time_limit)
    emulation = Emulation(schedules(orders, seeds), checks, suppress, time_limit, buffers)
    with _entering:
        if not _active:
            try:
                _patch(_patches)
            except BaseException:
                _patches.close()
                raise
        _active.append(emulation)
    try:
        yield emulation
    finally:
        with _entering:
            _active.remove(emulation)
            if not _active:
                _patches.close()


def require_dsl() -> None:
    """Raises ImportError, with one line, where CuTe DSL is missing."""
    try:
        import cutlass.cute  # noqa: F401
    except ImportError as error:
        raise ImportError(MISSING if (error.name or "").startswith("cutlass") else f"{MISSING} ({error})") from None


def _patch(stack: ExitStack) -> None:
    """Has the DSL keep IR and PTX, and its functions call `Emulation`, until the stack is closed."""
    require_dsl()
    from cutlass.base_dsl.compiler import CompileCallable
    from cutlass.base_dsl.dsl import BaseDSL
    from cutlass.cutlass_dsl import CuTeDSL
    from cutlass.utils.hardware_info import HardwareInfo

    # No compile option keeps the IR, and environment variables were read when the DSL was imported, into this object.
    settings = CuTeDSL._get_dsl().envar
    changes = [(settings, "keep_ir_clean", True), (settings, "keep_ptx", True)]
    changes.append((settings, "dump_dir", stack.enter_context(tempfile.TemporaryDirectory(prefix="ptx-emulator-"))))
    if "CUTE_DSL_ARCH" not in os.environ:
        changes.append((settings, "_arch", ARCH))
    changes.append((CompileCallable, "_compile", _compiling(CompileCallable._compile)))
    changes.append((BaseDSL, "_func", _calling(BaseDSL._func)))
    changes += [(HardwareInfo, name, answer) for name, answer in B200.items()]
    for owner, name, value in changes:
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


# What scripts ask of the GPU (cutlass.utils.HardwareInfo).
B200: dict[str, Callable[..., Any]] = {
    "__init__": lambda self, device_id=0: None,
    "get_max_active_clusters": lambda self, cluster_size, stream=None: SMS // cluster_size,
    "get_device_multiprocessor_count": lambda self: SMS,
    "get_l2_cache_size_in_bytes": lambda self: L2_BYTES,
}


def _compiling(original: Callable[..., Any]) -> Callable[..., Any]:
    """`cute.compile`, of which every spelling ends in CompileCallable._compile."""

    def compile_(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = original(self, *args, **kwargs)
        artifacts = getattr(compiled, "artifacts", None)
        if artifacts is None or not artifacts.PTX or not artifacts.MLIR:
            return compiled  # something else than a host function with kernels
        return EmulatedFunction(compiled)

    return compile_


def _calling(original: Callable[..., Any]) -> Callable[..., Any]:
    """A `@cute.jit` function called by the script; while another is traced, it is part of that."""

    def func(dsl: Any, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from cutlass._mlir import ir

        tracing = ir.Context.current is not None and ir.InsertionPoint.current is not None
        if tracing or kwargs.get("compile_only"):
            return original(dsl, body, *args, **kwargs)
        compiled = original(dsl, body, *args, compile_only=True, no_cache=True, **kwargs)
        execution = compiled.execution_args
        values = execution.get_rectified_args_from_original_args(args, kwargs)
        EmulatedFunction(compiled).launch(dict(zip(execution.signature.parameters, values, strict=True)))
        return None

    return func
