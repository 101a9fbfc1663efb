"""Reads the text of one CuTe DSL module (`CUTE_DSL_KEEP=ir`): type aliases, kernel headers, the host function."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_OPEN, _CLOSE = "([{<", ")]}>"


def _scan(text: str, start: int = 0):
    """Yields (index, character) of what lies at nesting depth 0, outside quotes."""
    depth, quoted = 0, False
    for index in range(start, len(text)):
        char = text[index]
        if char == '"' and text[index - 1] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif char in _OPEN:
            if depth == 0:
                yield index, char
            depth += 1
            continue
        elif char in _CLOSE and text[index - 1 : index + 1] != "->":
            depth -= 1
            if depth < 0:
                return
            continue
        if depth == 0:
            yield index, char


def split_top(text: str, separator: str = ",") -> list[str]:
    """Splits at separators outside brackets and quotes; pieces are stripped, an empty text gives no piece."""
    cuts = [index for index, char in _scan(text) if char == separator]
    if not text.strip():
        return []
    bounds = [-1, *cuts, len(text)]
    return [text[a + 1 : b].strip() for a, b in zip(bounds, bounds[1:], strict=False)]


def closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    depth, quoted = 0, False
    for index in range(start, len(text)):
        char = text[index]
        if char == '"' and text[index - 1] != "\\":
            quoted = not quoted
        elif not quoted and char in _OPEN:
            depth += 1
        elif not quoted and char in _CLOSE and text[index - 1 : index + 1] != "->":
            depth -= 1
            if depth == 0:
                return index
    raise ValueError(f"unbalanced brackets in {text[start : start + 120]!r}")


def strip_angle(text: str) -> tuple[str, str | None]:
    """`"!cute.ptr<f32, gmem>"` -> ("!cute.ptr", "f32, gmem"); (text, None) without angle brackets."""
    start = text.find("<")
    if start < 0 or not text.endswith(">"):
        return text, None
    return text[:start], text[start + 1 : -1]


@dataclass
class Op:
    """One operation. `signature` is the text after the last top-level ` : `; `regions` hold nested operations."""

    name: str
    results: list[str]
    body: str
    signature: str
    text: str
    regions: list[Region] = field(default_factory=list)

    @property
    def operands(self) -> list[str]:
        """Every `%value` of the body, in order."""
        return _VALUE.findall(self.body)

    def type_texts(self) -> tuple[list[str], list[str] | None]:
        """(operand or sole types, result types or None) as printed in the signature."""
        arrow = _top_arrow(self.signature)
        if arrow >= 0:
            return _type_list(self.signature[:arrow]), _type_list(self.signature[arrow + 2 :])
        if " to " in self.signature:
            source, target = self.signature.split(" to ", 1)
            return [source.strip()], [target.strip()]
        return split_top(self.signature), None


@dataclass
class Region:
    """A block: the names of its arguments and its operations."""

    arguments: list[str]
    ops: list[Op]


@dataclass(frozen=True)
class KernelText:
    """A `cuda.kernel` header: argument type texts, the attribute text, and its shared-memory allocations.

    An item of `allocations` is (partition, type text), or a `list` of the alternative blocks of one nested operation,
    each a list of items.
    """

    name: str
    argument_types: list[str]
    attributes: str
    allocations: list[Any] = field(default_factory=list)


@dataclass
class ModuleText:
    aliases: dict[str, str]
    kernels: dict[str, KernelText]
    host_name: str
    host_arguments: list[tuple[str, str]]
    host: Region


_VALUE = re.compile(r"%[A-Za-z0-9_]+(?:#\d+)?")
_RESULTS = re.compile(r"\s*((?:%\w+(?::\d+)?(?:, )?)+) = ")
_NAME = re.compile(r'\s*"?([A-Za-z_][\w.]*)"?')
_ALLOCATION = re.compile(r"cute\.memref\.alloca\(\) \{smem\.partition_id = (\d+).*\} : (.+)$")


def _top_arrow(text: str) -> int:
    for index, char in _scan(text):
        if char == "-" and text[index : index + 2] == "->":
            return index
    return -1


def _type_list(text: str) -> list[str]:
    text = text.strip()
    if text.startswith("(") and closing(text, 0) == len(text) - 1:
        text = text[1:-1]
    return split_top(text)


def parse_module(ir_text: str) -> ModuleText:
    """Raises ValueError where the text holds no host function or something that does not read as CuTe IR."""
    lines = ir_text.splitlines()
    aliases, kernels = {}, {}
    open_blocks: list[list[Any]] = []
    for number, line in enumerate(lines):
        if line.startswith("!"):
            name, _, target = line.partition(" = ")
            aliases[name.strip()] = target.strip()
        elif "cuda.kernel @" in line:
            kernel = _kernel_header(line)
            kernels[kernel.name] = kernel
            open_blocks = [kernel.allocations]
        elif open_blocks and not line.startswith("  func.func"):
            _note_allocation(line, open_blocks)
        elif line.startswith("  func.func @"):
            name, arguments = _signature(line.split("func.func", 1)[1])
            ops, _ = _block(lines, number + 1)
            return ModuleText(aliases, kernels, name, arguments, Region([n for n, _ in arguments], ops))
    raise ValueError("the IR text has no host function (`func.func`): dump it with CUTE_DSL_KEEP=ir")


def _note_allocation(line: str, open_blocks: list[list[Any]]) -> None:
    """Keeps the stack of lists that allocations of the current block go to; the last list closes with the kernel.

    Every second list of the stack collects the alternative blocks of one operation.
    """
    text = line.strip()
    if match := _ALLOCATION.search(line):
        open_blocks[-1].append((int(match.group(1)), match.group(2)))
    if text.startswith("}"):
        open_blocks.pop()
        if text.endswith("{"):
            open_blocks[-1].append([])
            open_blocks.append(open_blocks[-1][-1])
        elif open_blocks:
            alternatives = open_blocks.pop()
            if any(alternatives):
                open_blocks[-1].append(alternatives)
    elif text.endswith("{"):
        open_blocks.append([[]])
        open_blocks.append(open_blocks[-1][-1])


def _kernel_header(line: str) -> KernelText:
    name, arguments = _signature(line.split("cuda.kernel", 1)[1])
    attributes = line[line.index(" attributes {") :] if " attributes {" in line else ""
    return KernelText(name, [type_ for _, type_ in arguments], attributes)


def _signature(text: str) -> tuple[str, list[tuple[str, str]]]:
    """`@name(%arg0: T {attr}, ...)` -> (name, [(%arg0, T), ...])."""
    start = text.index("(")
    name = text[:start].strip().lstrip("@").strip('"')
    arguments = []
    for piece in split_top(text[start + 1 : closing(text, start)]):
        value, _, type_ = piece.partition(": ")
        if type_.endswith("}"):
            type_ = type_[: type_.rindex(" {")]
        arguments.append((value.strip(), type_.strip()))
    return name, arguments


def _block(lines: list[str], number: int) -> tuple[list[Op], int]:
    """Operations from line index `number` up to the line that closes the block; returns that line's index."""
    ops: list[Op] = []
    while number < len(lines):
        line = lines[number].strip()
        if line.startswith("}"):
            return ops, number
        if not line or line.startswith("^"):
            number += 1
            continue
        op = _op(line)
        ops.append(op)
        number += 1
        while line.endswith("{"):
            inner, end = _block(lines, number)
            op.regions.append(Region(_block_arguments(lines[number]), inner))
            number = end
            line = lines[number].strip()
            number += 1
    raise ValueError("the IR text ends inside a block")


def _block_arguments(line: str) -> list[str]:
    """`^bb0(%a: i32):` -> [%a]; [] for a block without arguments."""
    return _VALUE.findall(line) if line.strip().startswith("^") else []


def _op(line: str) -> Op:
    text = line
    results: list[str] = []
    if match := _RESULTS.match(line):
        for name in match.group(1).split(", "):
            name, _, count = name.partition(":")
            results += [f"{name}#{i}" for i in range(int(count))] if count else [name]
        line = line[match.end() :]
    match = _NAME.match(line)
    if match is None:
        raise ValueError(f"cannot read the IR operation {text!r}")
    rest = line[match.end() :]
    if rest.rstrip().endswith("{"):
        rest = rest.rstrip()[:-1]
    cuts = [index for index, char in _scan(rest) if char == ":" and rest[index - 1 : index + 2] == " : "]
    body, signature = (rest[: cuts[-1]], rest[cuts[-1] + 1 :]) if cuts else (rest, "")
    return Op(match.group(1), results, body.strip(), signature.strip(), text)
