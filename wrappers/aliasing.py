"""Which bytes a strided tensor covers, and whether two tensors, or two rows of one, share any."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

# Beyond so many separate runs of bytes two interleaved tensors count as sharing some.
MAX_RUNS = 1 << 20


@dataclass(frozen=True)
class Layout:
    """Runs of `run` contiguous bytes; `dims` are (stride in bytes, size), strides ascending, sizes above 1."""

    run: int
    dims: tuple[tuple[int, int], ...]

    @staticmethod
    def of(tensor: torch.Tensor) -> Layout:
        width = tensor.element_size()
        run, dims = width, []
        for stride, size in sorted((s * width, n) for n, s in zip(tensor.shape, tensor.stride()) if n > 1):
            if stride == run and not dims:
                run *= size
            else:
                dims.append((stride, size))
        return Layout(run, tuple(dims))

    @property
    def extent(self) -> int:
        """Bytes from the first to behind the last."""
        return self.run + sum(stride * (size - 1) for stride, size in self.dims)

    @property
    def num_runs(self) -> int:
        return math.prod(size for _, size in self.dims)

    def starts(self) -> torch.Tensor:
        """Where each run begins, in bytes from the first, ascending."""
        starts = torch.zeros(1, dtype=torch.int64)
        for stride, size in self.dims:
            starts = (starts + stride * torch.arange(size)[:, None]).flatten()
        return starts.sort().values

    def within(self, begin: int, end: int) -> tuple[int, Layout]:
        """Where it begins and what is left of it if runs that lie outside bytes [begin, end) are left out, as far as
        the largest stride tells."""
        if not self.dims or self.dims[-1][0] == 0:
            return 0, self
        (stride, size), inner = self.dims[-1], Layout(self.run, self.dims[:-1])
        first = min(max(0, (begin - inner.extent) // stride + 1), size - 1)
        last = min(max(first, (end - 1) // stride), size - 1)
        return first * stride, Layout(self.run, (*inner.dims, (stride, last - first + 1)))


@functools.lru_cache(maxsize=1024)
def overlaps_itself(layout: Layout) -> bool:
    """Whether two of its elements share a byte."""
    end = layout.run
    for stride, size in layout.dims:
        if stride < end:
            break
        end += stride * (size - 1)
    else:
        return False
    if layout.num_runs > MAX_RUNS:
        return True
    return bool((layout.starts().diff() < layout.run).any())


@functools.lru_cache(maxsize=1024)
def layouts_share(shift: int, one: Layout, other: Layout) -> bool:
    """Whether `other`, beginning `shift` bytes behind the beginning of `one`, shares a byte with it."""
    skipped, one = one.within(shift, shift + other.extent)
    moved, other = other.within(skipped - shift, skipped - shift + one.extent)
    if max(one.num_runs, other.num_runs) > MAX_RUNS:
        return True
    starts, others = skipped + one.starts(), shift + moved + other.starts()
    before = torch.searchsorted(starts, others + other.run - 1, right=True) - 1
    ends = starts[before.clamp(min=0)] + one.run
    return bool(((before >= 0) & (ends > others)).any())


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte and behind the last; the same twice where there is none."""
    begin, shape = tensor.data_ptr(), tensor.shape
    if 0 in shape:
        return begin, begin
    last = sum([(size - 1) * stride for size, stride in zip(shape, tensor.stride())])
    return begin, begin + (last + 1) * tensor.element_size()


def share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one device have a byte in common."""
    (begin, end), (other_begin, other_end) = span(one), span(other)
    if max(begin, other_begin) >= min(end, other_end):
        return False
    return layouts_share(other_begin - begin, Layout.of(one), Layout.of(other))


def first_shared(written: dict[str, torch.Tensor], read: dict[str, torch.Tensor]) -> tuple[str, str] | None:
    """The names of a tensor that is written and of another, written or read, that shares a byte with it."""
    spans = {name: span(tensor) for name, tensor in {**written, **read}.items()}
    names = list(spans)
    for index, name in enumerate(written):
        begin, end = spans[name]
        for other in names[index + 1 :]:
            other_begin, other_end = spans[other]
            near = begin < other_end and other_begin < end
            if near and share_memory(written[name], written[other] if other in written else read[other]):
                return name, other
    return None
