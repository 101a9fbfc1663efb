"""`mla_decode` under torch.compile and FakeTensor: the operator, what it declares, and that results are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from wrappers import op
from wrappers.decode import mla_decode
from wrappers.testing import make_problem, shard


def problem_of(dtype=torch.bfloat16, page_size=16, **options):
    return make_problem(2, 3, 2, [5, 40], page_size=page_size, dtype=dtype, **options)


def outputs(problem):
    return torch.zeros(problem.out_shape, dtype=problem.out_dtype), torch.zeros(problem.out_shape[:3])


def same(results, expected):
    return all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def compiled(function, **options):
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


@pytest.mark.parametrize("with_lse", [True, False])
@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_opcheck(with_lse, backend):
    """Schema, fake implementation, autograd registration and functionalisation, by torch's own checker."""
    problem = problem_of(page_size=32)
    out, lse = outputs(problem)
    workspace = torch.zeros(64, dtype=torch.uint8) if backend == "torch" else None
    arguments = (*problem.tensors, out, lse if with_lse else None, workspace, 0.1, 1.0, True, "e", backend)
    results = torch.library.opcheck(op.decode, arguments)
    assert len(results) == 4 and set(results.values()) == {"SUCCESS"}


def test_opcheck_sees_a_write_that_is_not_declared():
    @torch.library.custom_op("blackwell_mla_test::lying", mutates_args=())
    def lying(query: torch.Tensor, out: torch.Tensor) -> None:
        out.fill_(1.0)

    lying.register_fake(lambda query, out: None)
    with pytest.raises(Exception, match="mutat|alias"):
        torch.library.opcheck(lying, (torch.zeros(2), torch.zeros(2)))


def test_what_is_written_is_declared():
    arguments = torch.ops.blackwell_mla.decode.default._schema.arguments
    assert {argument.name for argument in arguments if argument.is_write} == {"out", "lse", "workspace"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("options", [{}, {"return_lse": True}, {"return_lse": True, "lse_base": "2"}], ids=str)
def test_a_compiled_call_returns_what_an_eager_one_does(dtype, options):
    problem = problem_of(dtype, output_scale=0.5)

    def call(*tensors):
        return mla_decode(*tensors, **problem.options, **options)

    results, expected = compiled(call)(*problem.tensors), call(*problem.tensors)
    if not options:
        results, expected = (results,), (expected,)
    assert same(results, expected)


FEATURES = {
    "ragged": lambda: make_problem(3, 3, 4, [5, 0, 40], page_size=16, query_lens=[4, 0, 2]),
    "tree": lambda: problem_of(tree=True),
    "window": lambda: problem_of(window_left=5),
    "visible lengths": lambda: problem_of(visible_lens=True),
    "ragged tree": lambda: make_problem(2, 3, 4, [5, 40], page_size=16, query_lens=[4, 2], tree=True),
    "context parallel": lambda: shard(problem_of(), 2, 1, 3),
    "scale tensors": lambda: replace(
        problem_of(), softmax_scale=torch.tensor([0.05]), output_scale=torch.tensor([2.0])
    ),
    "one scale tensor": lambda: replace(problem_of(), output_scale=torch.tensor([2.0])),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_compiled_call_has_every_feature(name):
    problem = FEATURES[name]()

    def call(*tensors):
        return mla_decode(*tensors, **problem.options, return_lse=True)

    assert same(compiled(call)(*problem.tensors), call(*problem.tensors))
    plain = mla_decode(*problem_of().tensors, softmax_scale=problem_of().softmax_scale, return_lse=True)
    assert plain[0].shape != call(*problem.tensors)[0].shape or not same(plain, call(*problem.tensors))


@pytest.mark.parametrize("name", FEATURES)
def test_opcheck_of_every_feature(name):
    problem = FEATURES[name]()
    out = torch.zeros(problem.out_shape, dtype=problem.out_dtype)
    options = problem.options
    numbers = []
    for scale in ("softmax_scale", "output_scale"):
        value = options.pop(scale)
        if isinstance(value, torch.Tensor):
            options[f"{scale}_tensor"] = value
        numbers.append(1.0 if isinstance(value, torch.Tensor) else value)
    lse = torch.zeros(out.shape[:-1])
    arguments = (*problem.tensors, out, lse, None, *numbers, options.pop("is_causal"), "e", "torch")
    assert set(torch.library.opcheck(op.decode, arguments, options).values()) == {"SUCCESS"}


def test_a_compiled_call_writes_the_callers_memory():
    problem = problem_of()
    expected = mla_decode(*problem.tensors, **problem.options, return_lse=True)
    out, lse = outputs(problem)

    def call(out, lse):
        return mla_decode(*problem.tensors, **problem.options, out=out, return_lse=True, lse=lse)

    results = compiled(call)(out, lse)
    assert same((out, lse), expected) and same(results, expected)


def test_two_calls_into_the_same_memory_stay_in_order():
    first, second = problem_of(seed=1), problem_of(seed=2)

    def call(out):
        mla_decode(*first.tensors, **first.options, out=out)
        kept = out * 2
        mla_decode(*second.tensors, **second.options, out=out)
        return kept, out + 0

    results, expected = compiled(call)(outputs(first)[0]), call(outputs(first)[0])
    assert same(results, expected) and not torch.equal(results[0], 2 * results[1])


def test_the_batch_may_change_without_compiling_again():
    def call(*tensors):
        return mla_decode(*tensors, softmax_scale=0.05, return_lse=True)

    step = compiled(call, dynamic=True)
    for batch in (4, 2, 5):
        # 8 tokens, 3 heads: torch takes dimensions for the same that are equal in the first call.
        problem = make_problem(batch, 3, 8, [5, 40, 17, 3, 99][:batch], page_size=16)
        torch.compiler.set_stance("default" if batch == 4 else "fail_on_recompile")
        try:
            assert same(step(*problem.tensors), call(*problem.tensors))
        finally:
            torch.compiler.set_stance("default")


def test_fake_tensors_have_the_results_shapes():
    problem = problem_of(torch.float8_e4m3fn)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in problem.tensors]
        out, lse = mla_decode(*fakes, **problem.options, return_lse=True)
        assert (out.shape, out.dtype) == (problem.out_shape, torch.bfloat16)
        assert (lse.shape, lse.dtype) == (problem.out_shape[:3], torch.float32)
        with pytest.raises(ValueError, match=r"block_tables.shape\[0\]=1: must be the batch of query, 2"):
            mla_decode(fakes[0], fakes[1], fakes[2][:1], fakes[3], **problem.options)
        with pytest.raises(ValueError, match="lse is a Tensor: must be None without return_lse=True"):
            mla_decode(*fakes, **problem.options, lse=lse)


def test_a_bad_call_is_refused_when_it_is_traced():
    problem = problem_of()
    with pytest.raises(Exception, match=r"block_tables has dtype torch.int64: must be torch.int32"):
        compiled(lambda table: mla_decode(*problem.tensors[:2], table, problem.seq_lens, **problem.options))(
            problem.block_tables.long()
        )
