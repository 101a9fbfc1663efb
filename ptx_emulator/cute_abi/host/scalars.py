"""Host operations on numbers and control flow: `arith` and `scf`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..layouts import NotComputable
from ..text import Op
from ..types import ScalarType, Type, VectorType
from ..values import round_float
from .interpreter import Host, Unevaluated, host_op


@host_op("arith.constant")
def _constant(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    text = op.body.strip()
    if text in ("true", "false"):
        return (int(text == "true"),)
    if types is None:
        raise NotComputable(f"constant {op.text!r} without a type")
    if isinstance(types[0], VectorType):
        match = re.fullmatch(r"dense<(-?\d+)>", text)
        if match is None:
            raise NotComputable(f"vector constant {op.text!r}")
        return ((int(match.group(1)),) * types[0].length,)
    if not isinstance(types[0], ScalarType):
        raise NotComputable(f"constant {op.text!r}")
    if not types[0].is_float:
        return (int(text),)
    if text.startswith("0x"):
        return (_float_of_bits(int(text, 16), types[0]),)
    return (round_float(float(text), types[0]),)


def _float_of_bits(bits: int, type_: ScalarType) -> float:
    if type_.name == "bf16":
        return float(np.uint32(bits << 16).view(np.float32))
    unsigned = {16: np.uint16, 32: np.uint32, 64: np.uint64}[type_.bits]
    floating = {16: np.float16, 32: np.float32, 64: np.float64}[type_.bits]
    return float(unsigned(bits).view(floating))


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _nonzero(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def divide(a: int, b: int) -> int:
        if b == 0:
            raise ZeroDivisionError("integer division by zero in the host function")
        return function(a, b)

    return divide


_SIGNED: dict[str, Callable[[int, int], int]] = {
    "addi": operator.add,
    "subi": operator.sub,
    "muli": operator.mul,
    "divsi": _nonzero(_truncated),
    "remsi": _nonzero(lambda a, b: a - b * _truncated(a, b)),
    "floordivsi": _nonzero(operator.floordiv),
    "ceildivsi": _nonzero(lambda a, b: -(-a // b)),
    "minsi": min,
    "maxsi": max,
    "andi": operator.and_,
    "ori": operator.or_,
    "xori": operator.xor,
    "shrsi": operator.rshift,
}
_UNSIGNED: dict[str, Callable[[int, int], int]] = {
    "divui": _nonzero(operator.floordiv),
    "remui": _nonzero(operator.mod),
    "minui": min,
    "maxui": max,
    "shrui": operator.rshift,
}
_FLOAT: dict[str, Callable[[float, float], float]] = {
    "addf": operator.add,
    "subf": operator.sub,
    "mulf": operator.mul,
    "divf": operator.truediv,
    "minimumf": lambda a, b: math.nan if a != a or b != b else min(a, b),
    "maximumf": lambda a, b: math.nan if a != a or b != b else max(a, b),
}


def _scalar_type(op: Op, types: list[Type] | None) -> ScalarType:
    if types is None or not isinstance(types[0], ScalarType):
        raise NotComputable(f"{op.name} on something that is not a number: {op.text!r}")
    return types[0]


@host_op(*(f"arith.{name}" for name in (*_SIGNED, *_UNSIGNED, "shli")))
def _integer(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """Signed overflow is an error (`check` finds it): the compiled function would wrap, which nobody means."""
    a, b = host.operand_values(op)
    bits, name = _scalar_type(op, types).bits, op.name.removeprefix("arith.")
    if name == "shli":
        return (_signed(a << b, bits),)  # a mask, not a number: 1 << 31 is meant
    if name in _SIGNED:
        return (_SIGNED[name](a, b),)
    mask = (1 << bits) - 1
    return (_signed(_UNSIGNED[name](a & mask, b & mask), bits),)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if bits > 1 and value >> (bits - 1) else value


@host_op(*(f"arith.{name}" for name in _FLOAT))
def _float(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    a, b = host.operand_values(op)
    type_ = _scalar_type(op, types)
    if type_.bits > 32:
        raise NotComputable(f"{op.name} on {type_.name}")
    return (round_float(_FLOAT[op.name.removeprefix("arith.")](a, b), type_),)


@host_op("arith.negf")
def _negate(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (-host.value(op.operands[0]),)


_COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


@host_op("arith.cmpi", "arith.cmpf")
def _compare(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    predicate = op.body.split(",")[0].strip()
    a, b = host.operand_values(op)
    if op.name == "arith.cmpi" and predicate.startswith("u"):
        operand = host.operand_types(op)[0]
        mask = (1 << operand.bits) - 1
        a, b = a & mask, b & mask
    relation = predicate if predicate in ("eq", "ne") else predicate[1:]
    if relation not in _COMPARE or (op.name == "arith.cmpf" and predicate[0] == "u" and predicate != "une"):
        raise NotComputable(f"comparison {op.text!r}")
    return (int(_COMPARE[relation](a, b)),)


@host_op("arith.select")
def _select(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    condition, chosen, other = op.operands
    return (host.value(chosen if host.value(condition) else other),)


@host_op(
    "arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast", "arith.sitofp", "arith.uitofp",
    "arith.fptosi", "arith.extf", "arith.truncf",
)  # fmt: skip
def _convert(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value = host.value(op.operands[0])
    source, target = host.operand_types(op)[0], _scalar_type(op, types)
    if op.name in ("arith.extui", "arith.uitofp"):
        value &= (1 << source.bits) - 1
    if target.is_float:
        return (round_float(float(value), target),)
    # i1 holds 0 or 1, so extsi of true must give -1.
    if op.name == "arith.extsi" and source.bits == 1:
        value = -value
    return (_signed(int(value), target.bits),)


@host_op("scf.if")
def _if(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    branch = 0 if host.value(op.operands[0]) else 1
    if branch < len(op.regions):
        return tuple(host.run_region(op.regions[branch], None)[1])
    return ()


@host_op("scf.for")
def _for(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    match = re.match(r"(%\w+) = (%[\w#]+) to (%[\w#]+) step (%[\w#]+)(?: iter_args\((.*?)\))?", op.body)
    if match is None:
        raise NotComputable(f"loop {op.text!r}")
    counter, first, last, step, carried = match.groups()
    pairs = [item.split(" = ") for item in (carried or "").split(", ") if item]
    values = [host.values[initial.strip()] for _, initial in pairs]
    for index in range(host.value(first), host.value(last), host.value(step)):
        host.values[counter] = index
        host.values.update((name.strip(), value) for (name, _), value in zip(pairs, values, strict=True))
        values = host.run_region(op.regions[0], None)[1]
    return tuple(values)


_WHILE_LIMIT = 1 << 20


@host_op("scf.while")
def _while(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    pairs = [item.split(" = ") for item in re.findall(r"%\w+ = %[\w#]+", op.body)]
    values = [host.values[initial] for _, initial in pairs]
    for _ in range(_WHILE_LIMIT):
        host.values.update((name, value) for (name, _), value in zip(pairs, values, strict=True))
        _, (condition, *forwarded) = host.run_region(op.regions[0], None)
        if isinstance(condition, Unevaluated):
            raise NotComputable(condition.reason)
        if not condition:
            return tuple(forwarded)
        values = host.run_region(op.regions[1], forwarded)[1]
    raise NotComputable(f"a host loop ran more than {_WHILE_LIMIT} times: {op.text!r}")
