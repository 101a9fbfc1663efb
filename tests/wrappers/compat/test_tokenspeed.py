from __future__ import annotations

import pytest
import torch

from tests.wrappers.compat.peers import LENGTHS, REQUIRED, hostile_problem, in_base, parameters
from wrappers.compat import use_backend
from wrappers.compat.tokenspeed import tokenspeed_mla_decode
from wrappers.decode import workspace_bytes
from wrappers.testing import assert_matches


def call(problem, **changes):
    query, kv_cache, block_tables, seq_lens = problem.tensors
    arguments = {
        "query": query, "kv_cache": kv_cache, "workspace_buffer": torch.zeros(0, dtype=torch.int8), "kv_lora_rank": 512,
        "qk_rope_head_dim": 64, "block_tables": block_tables, "seq_lens": seq_lens, "max_seq_len": max(LENGTHS),
        "softmax_scale": problem.softmax_scale, **changes,
    }  # fmt: skip
    return tokenspeed_mla_decode(**arguments)


def test_parameters_are_the_peers():
    assert parameters(tokenspeed_mla_decode) == [
        ("query", REQUIRED), ("kv_cache", REQUIRED), ("workspace_buffer", REQUIRED), ("kv_lora_rank", REQUIRED),
        ("qk_rope_head_dim", REQUIRED), ("block_tables", REQUIRED), ("seq_lens", REQUIRED), ("max_seq_len", REQUIRED),
        ("softmax_scale", REQUIRED), ("output_scale", 1.0), ("out", None), ("is_var_seq", True), ("causal_mask", True),
        ("enable_pdl", False), ("return_lse", False), ("causal_seqs", None), ("cp_world", 1), ("cp_rank", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_output_and_binary_lse(dtype, causal):
    problem = hostile_problem(dtype, causal)
    out, lse = call(problem, causal_mask=causal, return_lse=True)
    assert out.dtype == (torch.bfloat16 if dtype == torch.float8_e4m3fn else dtype)
    assert lse.shape == (3, 2, 3)
    assert_matches(problem, out, lse / in_base(torch.ones(()), "2"))
    with pytest.raises(AssertionError):
        assert_matches(problem, out, lse)
    assert torch.equal(call(problem, causal_mask=causal), out)


@pytest.mark.parametrize("size", ["none", "enough"])
def test_through_the_kernel(size):
    problem = hostile_problem(torch.float8_e4m3fn, cache_rank=4)
    workspace = torch.zeros(0 if size == "none" else workspace_bytes(), dtype=torch.int8)
    out = torch.empty(problem.out_shape, dtype=torch.bfloat16)
    with use_backend("emulator"):
        result, lse = call(
            problem, workspace_buffer=workspace, out=out, return_lse=True, is_var_seq=False, enable_pdl=True,
            seq_lens=problem.seq_lens.long(),
        )  # fmt: skip
    assert result is out
    assert_matches(problem, out, lse / in_base(torch.ones(()), "2"))


def test_output_scale():
    problem = hostile_problem()
    torch.testing.assert_close(call(problem, output_scale=-2.0), -2.0 * call(problem))


REFUSED = {
    "kv_lora_rank": ({"kv_lora_rank": 256}, ValueError, "kv_lora_rank=256: must be 512"),
    "qk_rope_head_dim": ({"qk_rope_head_dim": 0}, ValueError, "qk_rope_head_dim=0: must be 64"),
    "max_seq_len": ({"max_seq_len": 0}, ValueError, "max_seq_len=0: must be at least 1"),
    "max_seq_len of a tensor": ({"max_seq_len": torch.tensor(5)}, TypeError, "max_seq_len is a Tensor: must be an int"),
    "workspace_buffer": ({"workspace_buffer": None}, TypeError, "workspace_buffer is a NoneType"),
    "seq_lens": ({"seq_lens": torch.ones(3)}, TypeError, "seq_lens has dtype torch.float32"),
    "cp_world": ({"cp_world": 0}, ValueError, "cp_world=0: must be at least 1"),
    "causal_mask": ({"causal_mask": None}, TypeError, "is_causal is a NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changes, error, message = REFUSED[name]
    out = torch.full((3, 2, 3, 512), 7.0, dtype=torch.bfloat16)
    with pytest.raises(error, match=message):
        call(hostile_problem(), out=out, **changes)
    assert (out == 7).all()
