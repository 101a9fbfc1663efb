"""CuTe tuples and layouts with integer leaves: the values that a CuTe DSL host function computes.

A tree is an int, a `Basis`, `None` (CuTe's `_`), or a tuple of trees. The printed form `(?,?{div=8}):(?{i64},1)`
parses to the same trees with `Dyn` leaves where a value is only known at run time; `bind` fills those in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Tree = Any


class NotComputable(ValueError):
    """A result that depends on what the compiler knew statically, or a form that this package does not know."""


@dataclass(frozen=True)
class Dyn:
    """A `?` leaf: a run-time integer of `bits` bits that is known to be a multiple of `div`."""

    bits: int = 32
    div: int = 1


@dataclass(frozen=True)
class Basis:
    """`scale@path`: scale times the unit vector of one mode. `path[0]` is the outermost mode's index. The scale is a
    Fraction where a tensor map's elements are larger than the tensor's."""

    scale: Tree
    path: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Congruent shape and stride trees; strides count elements (or are `Basis` leaves)."""

    shape: Tree
    stride: Tree


_TOKEN = re.compile(r"\s*(\?(?:\{[^}]*\})?|-?\d+(?:/\d+)?|@\d+|[(),:\[\];_])")


class _Reader:
    """Recursive descent over one printed tree, layout or tile."""

    def __init__(self, text: str):
        self.text = text
        self.tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"CuTe tuple {text!r}: cannot read it at {text[position:]!r}")
            self.tokens.append(match.group(1))
            position = match.end()
        self.next = 0

    def peek(self) -> str:
        return self.tokens[self.next] if self.next < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise ValueError(f"CuTe tuple {self.text!r}: expected {expected or 'more'}, found {token or 'the end'}")
        self.next += 1
        return token

    def tree(self) -> Tree:
        token = self.take()
        if token == "(":
            items = []
            while self.peek() != ")":
                items.append(self.tree())
                if self.peek() == ",":
                    self.take()
            self.take(")")
            return tuple(items)
        if token == "_":
            return None
        leaf = _parse_dyn(token) if token.startswith("?") else Fraction(token) if "/" in token else int(token)
        path = []
        while self.peek().startswith("@"):
            path.append(int(self.take()[1:]))
        return Basis(leaf, tuple(reversed(path))) if path else leaf

    def layout(self) -> Layout:
        shape = self.tree()
        self.take(":")
        return Layout(shape, self.tree())

    def tile(self) -> Tree:
        if self.peek() == "_":
            return self.tree()
        if self.peek() != "[":
            return self.layout()
        self.take("[")
        items = []
        while self.peek() != "]":
            items.append(self.tile())
            if self.peek() == ";":
                self.take()
        self.take("]")
        return tuple(items)

    def end(self, result: Tree) -> Tree:
        if self.next != len(self.tokens):
            raise ValueError(f"CuTe tuple {self.text!r}: unexpected {self.peek()!r}")
        return result


def _parse_dyn(token: str) -> Dyn:
    bits, div = 32, 1
    for word in token[2:-1].split() if token.endswith("}") else ():
        if re.fullmatch(r"i\d+", word):
            bits = int(word[1:])
        elif word.startswith("div="):
            div = int(word[4:])
        else:
            raise ValueError(f"CuTe tuple leaf {token!r}: unknown attribute {word!r}")
    return Dyn(bits, div)


def parse_tree(text: str) -> Tree:
    """`"(?,(2,3@1),_)"` -> nested tuples."""
    reader = _Reader(text)
    return reader.end(reader.tree())


def parse_layout(text: str) -> Layout:
    """`"(?,64):(?{i64 div=8},1)"` -> Layout."""
    reader = _Reader(text)
    return reader.end(reader.layout())


def parse_tile(text: str) -> Tree:
    """`"[128:1;_]"` -> a tuple of Layout or None; `"128:1"` -> one Layout."""
    reader = _Reader(text)
    return reader.end(reader.tile())


def leaves(tree: Tree) -> list[Tree]:
    """The leaves in printed order; a Layout's shape comes before its stride."""
    if isinstance(tree, tuple):
        return [leaf for item in tree for leaf in leaves(item)]
    if isinstance(tree, Layout):
        return leaves(tree.shape) + leaves(tree.stride)
    return [tree]


def is_dynamic(leaf: Tree) -> bool:
    return isinstance(leaf, Dyn) or (isinstance(leaf, Basis) and isinstance(leaf.scale, Dyn))


def is_static(tree: Tree) -> bool:
    """True iff no leaf is only known at run time."""
    return not any(is_dynamic(leaf) for leaf in leaves(tree))


def fill(template: Tree, values: Iterator[int]) -> Tree:
    """The template with its dynamic leaves replaced, in printed order."""
    if isinstance(template, tuple):
        return tuple(fill(item, values) for item in template)
    if isinstance(template, Layout):
        return Layout(fill(template.shape, values), fill(template.stride, values))
    if isinstance(template, Dyn):
        return next(values)
    if isinstance(template, Basis) and isinstance(template.scale, Dyn):
        return Basis(next(values), template.path)
    return template


def bind(template: Tree, value: Tree, what: str) -> Tree:
    """Returns `value` after checking it against a printed template: nesting, static leaves, width, divisibility.

    Raises ValueError naming `what` and the leaf. Agreement with the printed static leaves is also the check that
    the interpreter computed what the compiler did.
    """
    if isinstance(template, Layout):
        if not isinstance(value, Layout):
            raise ValueError(f"{what}: expected a layout like {show(template)}, got {show(value)}")
        shape = bind(template.shape, value.shape, f"{what}, shape")
        return Layout(shape, _bind_stride(template.stride, value.stride, shape, f"{what}, stride"))
    if isinstance(template, tuple):
        if not isinstance(value, tuple) or len(value) != len(template):
            raise ValueError(f"{what}: expected {show(template)}, got {show(value)}")
        return tuple(bind(t, v, what) for t, v in zip(template, value, strict=True))
    if isinstance(template, Dyn):
        return _bind_dyn(template, value, what)
    if isinstance(template, Basis) and isinstance(value, Basis) and template.path == value.path:
        return Basis(bind(template.scale, value.scale, what), value.path)
    if template != value:
        raise ValueError(f"{what}: compiled for {show(template)}, got {show(value)}")
    return value


def _bind_stride(template: Tree, value: Tree, shape: Tree, what: str) -> Tree:
    """As `bind`, but the stride of an extent of 1 addresses nothing and may differ from a static one."""
    if isinstance(template, tuple) and isinstance(value, tuple) and len(template) == len(value):
        shapes = shape if isinstance(shape, tuple) else (shape,) * len(value)
        return tuple(_bind_stride(t, v, s, what) for t, v, s in zip(template, value, shapes, strict=True))
    if shape == 1 and isinstance(template, int) and isinstance(value, int):
        return template
    return bind(template, value, what)


def _bind_dyn(template: Dyn, value: Tree, what: str) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{what}: expected an integer, got {show(value)}")
    if not -(1 << (template.bits - 1)) <= value < 1 << (template.bits - 1):
        raise ValueError(f"{what}: {value} does not fit the i{template.bits} it was compiled for")
    if value % template.div:
        raise ValueError(f"{what}: {value} is not a multiple of {template.div}, as compiled")
    return value


def show(value: Tree) -> str:
    """CuTe's printed form of a tree or layout."""
    if isinstance(value, tuple):
        return "(" + ",".join(show(item) for item in value) + ")"
    if isinstance(value, Layout):
        return f"{show(value.shape)}:{show(value.stride)}"
    if isinstance(value, Dyn):
        words = ([f"i{value.bits}"] if value.bits != 32 else []) + ([f"div={value.div}"] if value.div != 1 else [])
        return "?" + ("{" + " ".join(words) + "}" if words else "")
    if isinstance(value, Basis):
        return show(value.scale) + "".join(f"@{index}" for index in reversed(value.path))
    return "_" if value is None else str(value)


def map_leaves(function: Callable[..., Tree], *trees: Tree) -> Tree:
    """Applies `function` to corresponding leaves of congruent trees."""
    if isinstance(trees[0], tuple):
        if any(not isinstance(tree, tuple) or len(tree) != len(trees[0]) for tree in trees):
            raise NotComputable(f"trees differ in nesting: {', '.join(show(tree) for tree in trees)}")
        return tuple(map_leaves(function, *items) for items in zip(*trees, strict=True))
    return function(*trees)


def product(tree: Tree) -> int:
    """CuTe `size` of a shape."""
    return math.prod(leaves(tree))


def get_mode(tree: Tree, path: tuple[int, ...]) -> Tree:
    """The sub-tree (or sub-layout) at a mode path, outermost index first."""
    for index in path:
        if isinstance(tree, Layout):
            tree = Layout(get_mode(tree.shape, (index,)), get_mode(tree.stride, (index,)))
        elif isinstance(tree, tuple):
            tree = tree[index]
        elif index != 0:
            raise NotComputable(f"{show(tree)} has no mode {index}")
    return tree


def select(tree: Tree, indices: list[int]) -> Tree:
    """CuTe `select`: the listed modes, in that order."""
    if isinstance(tree, Layout):
        return Layout(select(tree.shape, indices), select(tree.stride, indices))
    return tuple(get_mode(tree, (index,)) for index in indices)


def compact_strides(shape: Tree) -> Tree:
    """Column-major (leftmost fastest) strides. A static extent of 1 gets stride 0 from the printed type."""
    running = 1

    def leaf(extent: int) -> int:
        nonlocal running
        stride, running = running, running * extent
        return stride

    return map_leaves(leaf, shape)


def ordered_layout(shape: Tree, order: Tree) -> Layout:
    """CuTe `make_ordered_layout` of unnested modes: compact, the modes with the lowest numbers in `order` fastest."""
    if any(not isinstance(extent, int) for extent in shape) or len(shape) != len(order):
        raise NotComputable(f"an ordered layout of shape {show(shape)}, order {show(order)}")
    strides, running = [0] * len(shape), 1
    for index in sorted(range(len(shape)), key=lambda i: order[i]):
        strides[index] = running
        running *= shape[index]
    return Layout(tuple(shape), tuple(strides))


def cosize(layout: Layout) -> int:
    """One more than the largest offset of a layout with non-negative strides; 0 where it is empty."""
    if product(layout.shape) == 0:
        return 0
    return 1 + sum((n - 1) * d for n, d in zip(leaves(layout.shape), leaves(layout.stride), strict=True))


def crd2idx(coord: Tree, layout: Layout) -> int:
    """The offset of a coordinate; an integer coordinate of a nested mode counts colexicographically."""
    shape, stride = layout.shape, layout.stride
    if isinstance(coord, tuple):
        if not isinstance(shape, tuple) or len(coord) != len(shape):
            raise NotComputable(f"coordinate {show(coord)} does not fit the shape {show(shape)}")
        return sum(crd2idx(c, Layout(s, d)) for c, s, d in zip(coord, shape, stride, strict=True))
    if not isinstance(shape, tuple):
        return coord * stride
    offset, rest = 0, coord
    for index, (s, d) in enumerate(zip(shape, stride, strict=True)):
        last = index == len(shape) - 1
        offset += crd2idx(rest if last else rest % product(s), Layout(s, d))
        rest //= product(s)
    return offset


def slice_layout(coord: Tree, layout: Layout) -> tuple[Layout, int]:
    """CuTe `slice_and_offset`: the `_` modes, flattened to one level, and the offset of the others."""
    if coord is None:
        return layout, 0
    shapes, strides, offset = _slice(coord, layout.shape, layout.stride)
    return Layout(tuple(shapes), tuple(strides)), offset


def _slice(coord: Tree, shape: Tree, stride: Tree) -> tuple[list[Tree], list[Tree], int]:
    if coord is None:
        return [shape], [stride], 0
    if not isinstance(coord, tuple):
        return [], [], crd2idx(coord, Layout(shape, stride))
    if not isinstance(shape, tuple) or len(shape) != len(coord):
        raise NotComputable(f"coordinate {show(coord)} does not fit the shape {show(shape)}")
    shapes, strides, offset = [], [], 0
    for c, s, d in zip(coord, shape, stride, strict=True):
        inner_shapes, inner_strides, inner_offset = _slice(c, s, d)
        shapes += inner_shapes
        strides += inner_strides
        offset += inner_offset
    return shapes, strides, offset


def tile_modes(layout: Layout, tile: Tree) -> tuple[list[Layout | None], list[Layout]]:
    """Splits mode i into (tile[i], rest[i]) for tiles `N:1` over unnested modes.

    A mode without a tile, or with `_`, is all rest and its tile is None. Raises NotComputable for other tiles: only
    these have a result that does not depend on what the compiler knew statically.
    """
    shapes = layout.shape if isinstance(layout.shape, tuple) else (layout.shape,)
    strides = layout.stride if isinstance(layout.stride, tuple) else (layout.stride,)
    tiles = tile if isinstance(tile, tuple) else (tile,)
    inner: list[Layout | None] = []
    rest: list[Layout] = []
    for index, (extent, stride) in enumerate(zip(shapes, strides, strict=True)):
        piece = tiles[index] if index < len(tiles) else None
        if piece is None:
            inner.append(None)
            rest.append(Layout(extent, stride))
            continue
        simple = isinstance(piece, Layout) and isinstance(piece.shape, int) and isinstance(extent, int)
        if not simple or (piece.shape != 1 and piece.stride != 1):
            raise NotComputable(f"tile {show(piece)} of mode {show(extent)}:{show(stride)} is not a contiguous run")
        size = piece.shape
        scaled = Basis(stride.scale * size, stride.path) if isinstance(stride, Basis) else stride * size
        inner.append(Layout(size, stride))
        rest.append(Layout(-(-extent // size), scaled))
    return inner, rest


def join(layouts: list[Layout]) -> Layout:
    """The layout whose modes are the given ones."""
    return Layout(tuple(item.shape for item in layouts), tuple(item.stride for item in layouts))
