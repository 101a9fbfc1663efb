"""Subclasses of Tensor, tracing, and tensors in states that torch itself treats apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from wrappers import validate
from wrappers.decode import mla_decode
from wrappers.testing import make_problem

NAMES = ("query", "kv_cache", "block_tables", "seq_lens")


class Plain(torch.Tensor):
    """No behaviour of its own."""


class PlainParameter(torch.nn.Parameter):
    """As an engine's annotated weights are."""


class Wrapping(torch.Tensor):
    """Results are of this class again."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})


def call_of(**options):
    problem = make_problem(2, 3, 2, [5, 40], **options)
    return {**dict(zip(NAMES, problem.tensors)), **problem.options, "return_lse": True}


def same(results, expected):
    return all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("backend", ["torch", "emulator"])
@pytest.mark.parametrize("kind", [Plain, PlainParameter, Wrapping])
@pytest.mark.parametrize("names", [NAMES, ("query",), ("kv_cache",)], ids=str)
def test_a_subclass_of_tensor_is_a_tensor(names, kind, backend):
    call = call_of()
    expected = mla_decode(**call, backend=backend)
    for name in names:
        is_parameter = kind is PlainParameter
        call[name] = kind(call[name], requires_grad=False) if is_parameter else call[name].as_subclass(kind)
    result = mla_decode(**call, backend=backend)
    assert same(result, expected) and [type(value) for value in result] == [torch.Tensor] * 2


def test_outputs_of_a_subclass_are_returned_as_they_are():
    call = call_of()
    expected = mla_decode(**call)
    out, lse = (torch.zeros_like(value).as_subclass(Wrapping) for value in expected)
    result = mla_decode(**call, out=out, lse=lse, workspace=torch.zeros(8, dtype=torch.uint8).as_subclass(Plain))
    assert (
        result[0] is out and result[1] is lse and same([value.as_subclass(torch.Tensor) for value in result], expected)
    )


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_the_operator(mode):
    call = call_of()
    expected = mla_decode(**call)
    tensors = [call.pop(name) for name in NAMES]
    graph = make_fx(lambda *tensors: mla_decode(*tensors, **call), tracing_mode=mode)(*tensors)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert sum(target.startswith("blackwell_mla.decode") for target in targets) == 1 and len(targets) < 20
    assert same(graph(*tensors), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint64])
@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_a_packed_tree_mask_of_one_word_may_have_any_last_stride(dtype, backend):
    call = call_of(tree=True)
    mask = call["tree_mask"]
    expected = mla_decode(**call, backend=backend)
    words = validate.pack_bits(mask).to(torch.int64)
    for packed in (words.transpose(1, 2).contiguous().transpose(1, 2), words.expand(-1, -1, 1)):
        call["tree_mask"] = packed.to(torch.int64).to(dtype) if dtype != torch.int64 else packed
        assert same(mla_decode(**call, backend=backend), expected)
    strided = torch.zeros(2, 2, 3, dtype=torch.int64)
    strided[..., 0] = words[..., 0]
    call["tree_mask"] = strided.to(dtype).as_strided((2, 2, 1), (6, 3, 3))
    assert same(mla_decode(**call, backend=backend), expected)


@pytest.mark.parametrize("name", ["out", "lse"])
@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_memory_made_in_inference_mode(name, backend):
    call = call_of()
    expected = mla_decode(**call, backend=backend)
    with torch.inference_mode():
        value = torch.zeros_like(expected[name == "lse"])
    with pytest.raises(
        ValueError, match=f"{name} was made in inference mode: it can be written in inference mode only"
    ):
        mla_decode(**call, **{name: value}, backend=backend)
    with torch.inference_mode():
        assert same(mla_decode(**call, **{name: value}, backend=backend), expected)


def test_without_gradients_a_parameter_can_be_written():
    call = call_of()
    expected = mla_decode(**call)
    out = torch.nn.Parameter(torch.zeros_like(expected[0]))
    with torch.no_grad():
        assert mla_decode(**call, out=out)[0] is out
    assert torch.equal(out, expected[0])
    call["query"] = torch.nn.Parameter(call["query"])
    assert not mla_decode(**call)[0].requires_grad


@pytest.mark.parametrize("value", [3, "x", 0.0])
@pytest.mark.parametrize("fullgraph", [True, False])
def test_check_values_is_checked_under_torch_compile(value, fullgraph):
    call = call_of()
    torch.compiler.reset()
    step = torch.compile(lambda: mla_decode(**call, check_values=value), backend="aot_eager", fullgraph=fullgraph)
    with pytest.raises(Exception, match=f"check_values is a {type(value).__name__}: must be a bool"):
        step()


@pytest.mark.parametrize("check_values, is_refused", [(True, True), (None, True), (False, False)])
def test_check_values_holds_under_torch_compile(check_values, is_refused):
    call = call_of()
    call["seq_lens"][0] = -1
    torch.compiler.reset()
    step = torch.compile(lambda: mla_decode(**call, check_values=check_values), backend="aot_eager", fullgraph=True)
    if is_refused:
        with pytest.raises(ValueError, match=r"seq_lens\[0\]=-1"):
            step()
    else:
        assert not step()[0][0].any()


@pytest.mark.parametrize("backend", ["torch", "emulator", pytest.param("cute", marks=pytest.mark.device)])
def test_behind_a_ragged_query_nothing_is_written(backend):
    problem = make_problem(2, 16, 8, [5, 40], query_lens=[2, 1])
    device = "cuda" if backend == "cute" else "cpu"
    tail = torch.full((2, 16, 576), math.nan, dtype=torch.bfloat16)
    placed = problem.to(device)
    out = torch.full((5, 16, 512), 7.0, dtype=torch.bfloat16, device=device)
    lse = torch.full((5, 16), 7.0, device=device)
    query = torch.cat([problem.query, tail]).to(device)
    mla_decode(query, *placed.tensors[1:], **placed.options, out=out, return_lse=True, lse=lse, backend=backend)
    assert (out[3:] == 7).all() and (lse[3:] == 7).all() and not (out[:3] == 7).all()
