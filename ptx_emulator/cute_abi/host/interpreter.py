"""Interprets a CuTe DSL host function: from the caller's arguments to the kernel launches it would make.

Every printed result type tells all that the compiler knew, so an operation with a static result needs no computing;
the others are computed on integers and then checked against their printed type. An operation whose result cannot be
computed is an error only if a launch, a branch or a loop depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import layouts
from ..layouts import Layout, NotComputable, bind
from ..text import ModuleText, Op, Region
from ..types import (
    CoordTensorType,
    LayoutType,
    MemrefType,
    OpaqueType,
    ScalarType,
    TreeType,
    Type,
    is_static,
    parse_type,
    static_value,
)
from ..values import CoordTensor, Tensor, flatten_arguments, host_argument


class UnsupportedHostOperation(NotImplementedError):
    """A host operation, on which a launch depends, that the interpreter does not implement. Names its text."""


@dataclass(frozen=True)
class Unevaluated:
    """Stands for a result that was not computed; `reason` is given if something needs it."""

    reason: str


@dataclass
class LaunchConfig:
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    cluster: tuple[int, int, int] = (1, 1, 1)
    dependent: bool = False


@dataclass(frozen=True)
class HostLaunch:
    """One kernel launch: its geometry, and its arguments' values (None for those without run-time state)."""

    kernel: str
    config: LaunchConfig
    values: tuple[Any, ...]


STREAM = "!cuda.stream"  # the type of an argument that the emulator does without


def leaf_count(type_: Type) -> int:
    """Values that an argument of this type is given as."""
    return len(layouts.leaves(type_.tree)) if isinstance(type_, TreeType) else 1


Handler = Callable[["Host", Op, "list[Type] | None"], "tuple[Any, ...]"]
HANDLERS: dict[str, Handler] = {}


def host_op(*names: str) -> Callable[[Handler], Handler]:
    """Registers how the value of an operation is computed: fn(host, op, result types) -> one value per result."""

    def register(handler: Handler) -> Handler:
        for name in names:
            if name in HANDLERS:
                raise ValueError(f"host operation {name} is registered twice")
            HANDLERS[name] = handler
        return handler

    return register


# These print only their result's type after the colon; without an arrow, the others print operand types.
_RESULT_TYPED = {
    "cute.static", "cute.make_layout", "cute.make_view", "cute.make_identity_layout", "cute.make_identity_tensor",
    "cute.make_composed_layout", "cute.make_tiled_mma", "cute.make_tiled_copy", "cute.kernel_smem_size",
}  # fmt: skip


@dataclass
class Host:
    """One run of a host function. `shared_bytes_of` gives the bytes that a kernel's own allocations need."""

    module: ModuleText
    shared_bytes_of: Callable[[str], int]
    launches: list[HostLaunch] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def run(self, arguments: list[Any]) -> list[HostLaunch]:
        """`arguments` are the host function's, as its compiled form is called: no constexprs, no stream."""
        self._bind_arguments(arguments)
        self.run_region(self.module.host, None)
        return self.launches

    def _bind_arguments(self, arguments: list[Any]) -> None:
        given = list(flatten_arguments(arguments))
        wanted = []
        for name, text in self.module.host_arguments:
            if text == STREAM:
                self.values[name] = None
            else:
                wanted.append((name, text))
        types = [self.type(text) for _, text in wanted]
        counts = [leaf_count(type_) for type_ in types]
        if len(given) != sum(counts):
            texts = ", ".join(text for _, text in wanted)
            raise TypeError(f"the host function takes {sum(counts)} arguments ({texts}), got {len(given)}")
        numbers = iter(given)
        for index, ((name, _), type_, count) in enumerate(zip(wanted, types, counts, strict=True)):
            taken = [next(numbers) for _ in range(count)]
            value = taken if isinstance(type_, TreeType) else taken[0]
            self.values[name] = host_argument(value, type_, f"host argument {index}")

    def type(self, text: str) -> Type:
        return parse_type(text, self.module.aliases)

    def operand_types(self, op: Op) -> list[Type]:
        return [self.type(text) for text in op.type_texts()[0]]

    def result_types(self, op: Op) -> list[Type] | None:
        """The printed types of the results; None where this operation prints only its operands'."""
        if not op.signature:
            return None
        sources, results = op.type_texts()
        if results is None:
            if op.name == "arith.cmpi" or op.name == "arith.cmpf":
                return [ScalarType("i1")]
            if op.name not in _RESULT_TYPED and not op.name.startswith(("arith.", "math.")):
                return None
            results = sources
        types = [self.type(text) for text in results]
        return types if len(types) == len(op.results) else None

    def value(self, name: str) -> Any:
        """The value of `%name`; raises NotComputable where it was not computed."""
        value = self.values[name]
        if isinstance(value, Unevaluated):
            raise NotComputable(value.reason)
        return value

    def operand_values(self, op: Op) -> list[Any]:
        return [self.value(name) for name in op.operands]

    def run_region(self, region: Region, arguments: list[Any] | None) -> tuple[str, list[Any]]:
        """Runs a block and returns its terminator's name and operand values (unread ones stay Unevaluated)."""
        if arguments is not None:
            self.values.update(zip(region.arguments, arguments, strict=True))
        for op in region.ops:
            if op.name in ("scf.yield", "scf.condition", "return", "func.return"):
                return op.name, [self.values[name] for name in op.operands]
            self.step(op)
        return "", []

    def step(self, op: Op) -> None:
        types = self.result_types(op)
        if op.results and types is not None and all(is_static(type_) for type_ in types):
            self._assign(op, tuple(static_value(type_) for type_ in types))
            return
        handler = HANDLERS.get(op.name)
        try:
            if handler is None:
                raise NotComputable(f"the interpreter of host functions does not know {op.name}")
            values = handler(self, op, types)
            if types is not None:
                values = tuple(check(v, t, op) for v, t in zip(values, types, strict=True))
            self._assign(op, values)
        except NotComputable as error:
            if not op.results or op.regions or op.name == "cuda.launch_ex":
                raise UnsupportedHostOperation(f"{error}\n    needed by: {op.text[:300]}") from None
            reason = Unevaluated(f"{error}\n    in: {op.text[:300]}")
            self._assign(op, (reason,) * len(op.results))

    def _assign(self, op: Op, values: tuple[Any, ...]) -> None:
        if len(values) != len(op.results):
            raise NotComputable(f"{op.name} has {len(op.results)} results, {len(values)} were computed")
        self.values.update(zip(op.results, values, strict=True))


def check(value: Any, type_: Type, op: Op) -> Any:
    """Checks a computed value against its printed type; raises ValueError naming the operation."""
    what = f"host operation {op.text[:200]!r}"
    if value is None or isinstance(value, Unevaluated | OpaqueType):
        return value
    if isinstance(type_, TreeType):
        return bind(type_.tree, value, what)
    if isinstance(type_, LayoutType):
        return bind(type_.layout, value, what)
    if isinstance(type_, MemrefType):
        if not isinstance(value, Tensor) or value.pointer.element != type_.element:
            raise ValueError(f"{what}: the result is not a tensor of {type_.element}")
        return Tensor(value.pointer, bind(type_.layout, value.layout, what))
    if isinstance(type_, CoordTensorType):
        base = bind(type_.base, value.base, what)
        return CoordTensor(base, bind(type_.layout, value.layout, what))
    if isinstance(type_, ScalarType) and not type_.is_float and type_.bits > 1:
        return bind(layouts.Dyn(type_.bits), value, what)
    return value


def template_layout(type_: Type) -> Layout:
    """The printed layout of a layout-like result type."""
    if isinstance(type_, LayoutType | MemrefType | CoordTensorType):
        return type_.layout
    raise NotComputable(f"{type_} has no layout")


def one_type(types: list[Type] | None, op: Op) -> Type:
    """The printed type of the first result; raises NotComputable where it is not printed."""
    if types is None:
        raise NotComputable(f"{op.name} without a printed result type")
    return types[0]
