"""Shared memory, against sets of bytes; what calls refuse and what they must not."""

from __future__ import annotations

import math
import random

import pytest
import torch

from wrappers import aliasing
from wrappers.aliasing import Layout, layouts_share, overlaps_itself, share_memory
from wrappers.decode import mla_decode
from wrappers.testing import assert_matches, make_problem

DTYPES = (torch.uint8, torch.float16, torch.float32)
POOL = torch.zeros(1 << 12, dtype=torch.uint8)


def any_view(generator: random.Random) -> torch.Tensor:
    """Sizes down to 1, strides down to 0, anywhere in `POOL`."""
    pool = POOL.view(generator.choice(DTYPES))
    sizes = [generator.randint(1, 5) for _ in range(generator.randint(1, 3))]
    strides = [generator.choice((0, 1, 1, 2, 3, 4, 5, 7, 12, 20, 35)) for _ in sizes]
    return pool.as_strided(sizes, strides, generator.randint(0, 60))


def addresses(tensor: torch.Tensor) -> list[set[int]]:
    """The bytes of each element."""
    width, begin = tensor.element_size(), tensor.data_ptr()
    places = [0]
    for size, stride in zip(tensor.shape, tensor.stride()):
        places = [place + index * stride for place in places for index in range(size)]
    return [set(range(begin + place * width, begin + (place + 1) * width)) for place in places]


def test_it_is_what_the_addresses_say():
    generator, counts = random.Random(0), [0, 0, 0, 0]
    for _ in range(3000):
        one, other = any_view(generator), any_view(generator)
        ones, others = addresses(one), addresses(other)
        expected = bool(set().union(*ones) & set().union(*others))
        assert share_memory(one, other) == share_memory(other, one) == expected, (one.shape, one.stride())
        counts[expected] += 1
        expected = sum(map(len, ones)) > len(set().union(*ones))
        assert overlaps_itself(Layout.of(one)) == expected, (one.shape, one.stride())
        counts[2 + expected] += 1
    assert min(counts) > 300


def test_a_layout_with_too_many_runs_counts_as_shared(monkeypatch):
    monkeypatch.setattr(aliasing, "MAX_RUNS", 3)
    layouts_share.cache_clear()
    one, other = POOL.as_strided((8,), (4,), 0), POOL.as_strided((8,), (4,), 2)
    assert share_memory(one, other)
    layouts_share.cache_clear()
    monkeypatch.undo()
    assert not share_memory(one, other)


def call_of(**options):
    problem = make_problem(2, 4, 3, [40, 70], page_size=32, **options)
    lse = torch.full(problem.out_shape[:3], 7.0)
    out = torch.full(problem.out_shape, 7.0, dtype=problem.out_dtype)
    return problem, {"out": out, "return_lse": True, "lse": lse}


def in_memory_of(tensor, shape, dtype):
    return tensor.view(torch.uint8).flatten()[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


SHARED = {
    "out with query": lambda p, c: c.update(out=p.query[..., :512]),
    "out with kv_cache": lambda p, c: c.update(out=in_memory_of(p.kv_cache, p.out_shape, torch.bfloat16)),
    "lse with kv_cache": lambda p, c: c.update(lse=in_memory_of(p.kv_cache[1:], p.out_shape[:3], torch.float32)),
    "out with lse": lambda p, c: c.update(lse=in_memory_of(c["out"], p.out_shape[:3], torch.float32)),
    "lse with seq_lens": lambda p, c: c.update(lse=p.seq_lens.view(torch.float32).as_strided((2, 3, 4), (12, 4, 1), 0)),
    "out with workspace": lambda p, c: c.update(workspace=c["out"].view(torch.uint8).flatten()),
    "workspace with block_tables": lambda p, c: c.update(workspace=p.block_tables.view(torch.uint8).flatten()),
    "lse with output_scale": lambda p, c: c.update(output_scale=c["lse"][1, 1, 1]),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_what_is_written_has_memory_of_its_own(name, backend):
    problem, call = call_of()
    if "seq_lens" in name:
        room = torch.zeros(64, dtype=torch.int32)
        room[:2] = problem.seq_lens
        object.__setattr__(problem, "seq_lens", room[:2])
    SHARED[name](problem, call)
    memory = {"query": problem.query, "kv_cache": problem.kv_cache, **call}
    before = {key: value.clone() for key, value in memory.items() if isinstance(value, torch.Tensor)}
    written, other = name.split(" with ")
    with pytest.raises(ValueError, match=f"{written} shares memory with {other}"):
        mla_decode(*problem.tensors, **{**problem.options, **call}, backend=backend)
    for key, value in before.items():
        assert torch.equal(memory[key].flatten().view(torch.uint8), value.flatten().view(torch.uint8)), key


@pytest.mark.parametrize("backend", ["torch", "emulator"])
@pytest.mark.parametrize(
    "name, strides",
    [("out", (6144, 2048, 256, 1)), ("out", (6144, 8, 512, 1)), ("out", (8, 2048, 512, 1)), ("lse", (12, 1, 1)),
     ("lse", (3, 4, 1)), ("lse", (12, 4, 0)), ("out", (6144, 2048, 0, 1))],
    ids=str,
)  # fmt: skip
def test_rows_that_lie_in_each_other(name, strides, backend):
    problem, call = call_of()
    call[name] = call[name].as_strided(call[name].shape, strides)
    with pytest.raises(ValueError, match=f"{name} has shape .* and strides .*: its elements must not share memory"):
        mla_decode(*problem.tensors, **problem.options, **call, backend=backend)
    assert (call["out"] == 7).all() and (call["lse"] == 7).all()


def test_memory_that_is_only_interleaved():
    """Query and output in the same rows, log-sum-exps behind each, page tables of one row for all: no overlap."""
    problem, call = call_of()
    room = torch.full((2, 3, 4, 576 + 512 + 64), 7.0, dtype=torch.bfloat16)
    room[..., :576] = problem.query
    lse = room.view(torch.float32)[..., (576 + 512) // 2]
    out = room[..., 576 : 576 + 512]
    result = mla_decode(
        room[..., :576], *problem.tensors[1:], **problem.options, out=out, return_lse=True, lse=lse, backend="torch"
    )
    assert_matches(problem, *result)
    odd = torch.zeros(64).as_strided((2, 3, 4), (1, 2, 7))  # strides that are not nested
    call["lse"] = odd
    assert_matches(problem, *mla_decode(*problem.tensors, **problem.options, **call, backend="torch"))
