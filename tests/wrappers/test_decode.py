"""`mla_decode`: its signature, what it returns, and which backend it takes."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch

from wrappers import backends
from wrappers.decode import mla_decode
from wrappers.testing import assert_matches, make_problem


def test_signature():
    text = str(inspect.signature(mla_decode, eval_str=False)).replace("'", "")
    names = [parameter.strip().split(":")[0].split("=")[0] for parameter in text[1:].split(") ->")[0].split(", ")]
    assert names == [
        "query", "kv_cache", "block_tables", "seq_lens", "*", "softmax_scale", "output_scale", "is_causal", "out",
        "return_lse", "lse", "lse_base", "workspace", "check_values", "backend", "cu_seqlens_q", "max_seq_len_q",
        "tree_mask", "dcp_world", "dcp_rank", "dcp_interleave", "window_left", "local_visible_lens",
        "isolate_drafts",
    ]  # fmt: skip
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(mla_decode).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert defaults == {
        "output_scale": 1.0, "is_causal": True, "out": None, "return_lse": False, "lse": None, "lse_base": "e",
        "workspace": None, "check_values": None, "backend": "auto", "cu_seqlens_q": None, "max_seq_len_q": None,
        "tree_mask": None, "dcp_world": 1, "dcp_rank": 0, "dcp_interleave": 1, "window_left": None,
        "local_visible_lens": None,
        "isolate_drafts": False,
    }  # fmt: skip


def test_auto_on_cpu_tensors_is_torch():
    problem = make_problem(2, 2, 2, [3, 40])
    out = mla_decode(*problem.tensors, **problem.options)
    assert torch.equal(out, mla_decode(*problem.tensors, **problem.options, backend="torch"))
    assert_matches(problem, out)


@pytest.mark.parametrize(
    "dtype, out_dtype",
    [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.float8_e4m3fn, torch.bfloat16)],
)
def test_results(dtype, out_dtype):
    problem = make_problem(2, 2, 3, [3, 40], dtype=dtype)
    out, lse = mla_decode(*problem.tensors, **problem.options, return_lse=True)
    assert (out.shape, out.dtype) == ((2, 3, 2, 512), out_dtype)
    assert (lse.shape, lse.dtype) == ((2, 3, 2), torch.float32)
    mine = torch.empty_like(out)
    assert mla_decode(*problem.tensors, **problem.options, out=mine) is mine
    assert torch.equal(mine, out)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_scales_may_be_tensors(shape):
    problem = make_problem(2, 2, 3, [0, 40], output_scale=0.5)
    scales = {name: torch.full(shape, problem.options[name]) for name in ("softmax_scale", "output_scale")}
    expected = mla_decode(*problem.tensors, **problem.options)
    torch.testing.assert_close(mla_decode(*problem.tensors, **scales), expected)


def test_the_callers_lse_is_written_and_returned():
    problem = make_problem(2, 3, 2, [3, 40])
    expected = mla_decode(*problem.tensors, **problem.options, return_lse=True)[1]
    mine = torch.zeros(2, 3, 2).transpose(1, 2)
    for backend in ("torch", "emulator"):
        mine.fill_(7.0)
        result = mla_decode(*problem.tensors, **problem.options, return_lse=True, lse=mine, backend=backend)
        assert result[1] is mine
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_lse_base_2():
    problem = make_problem(2, 2, 3, [0, 40])
    natural, binary = (
        mla_decode(*problem.tensors, **problem.options, return_lse=True, lse_base=base)[1] for base in ("e", "2")
    )
    torch.testing.assert_close(binary, natural / torch.log(torch.tensor(2.0)))
    assert (binary[0] == -torch.inf).all()


def test_an_empty_batch_is_no_error():
    problem = make_problem(1, 2, 3, [5])
    tensors = (problem.query[:0], problem.kv_cache, problem.block_tables[:0], problem.seq_lens[:0])
    out, lse = mla_decode(*tensors, **problem.options, return_lse=True)
    assert out.shape == (0, 3, 2, 512) and lse.shape == (0, 3, 2)


def test_inputs_are_left_alone():
    problem = make_problem(2, 2, 3, [3, 40], strided=True)
    before = [tensor.clone() for tensor in problem.tensors]
    mla_decode(*problem.tensors, **problem.options)
    for tensor, copy in zip(problem.tensors, before):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "capability, arch", [((10, 0), "sm_100a"), ((10, 3), "sm_103a"), ((9, 0), None), ((12, 0), None)]
)
def test_architectures(capability, arch, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = SimpleNamespace(type="cuda")
    if arch is None:
        with pytest.raises(ValueError, match=f"compute capability {capability[0]}.{capability[1]}: backend='cute'"):
            backends.device_arch(device)
    else:
        assert backends.device_arch(device) == arch
