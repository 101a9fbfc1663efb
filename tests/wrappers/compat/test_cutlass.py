from __future__ import annotations

import pytest
import torch

from wrappers.compat.cutlass import (
    cutlass_mla_decode,
    cutlass_mla_get_workspace_size,
    sm100_cutlass_mla_decode,
    sm100_cutlass_mla_get_workspace_size,
)
from wrappers.decode import workspace_bytes
from wrappers.testing import assert_matches, make_problem

PADDED_HEADS = 128


def one_token_problem(dtype=torch.bfloat16):
    return make_problem(3, 3, 1, [5, 0, 70], page_size=32, dtype=dtype)


def call_vllm(problem, **changes):
    """As vLLM's backend does: outputs padded to 128 heads."""
    query = problem.query[:, 0]
    given = {
        "out": torch.full((3, PADDED_HEADS, 512), 7.0, dtype=torch.bfloat16), "lse": torch.full((3, PADDED_HEADS), 7.0),
        "q_nope": query[..., :512], "q_pe": query[..., 512:], "kv_c_and_k_pe_cache": problem.kv_cache,
        "seq_lens": problem.seq_lens, "page_table": problem.block_tables,
        "workspace": torch.zeros(0, dtype=torch.uint8), "scale": problem.softmax_scale, "num_kv_splits": -1, **changes,
    }  # fmt: skip
    return sm100_cutlass_mla_decode(**given), given["out"], given["lse"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_vllms_operator(dtype):
    problem = one_token_problem(dtype)
    result, out, lse = call_vllm(problem)
    assert result is out
    assert_matches(problem, out[:, None, :3], lse[:, None, :3])
    assert (out[:, 3:] == 7).all() and (lse[:, 3:] == 7).all(), "heads that are padding"
    assert torch.equal(call_vllm(problem, lse=torch.Tensor())[1], out), "without a log-sum-exp"


def test_sgl_kernels_operator():
    problem = one_token_problem()
    query = problem.query[:, 0]
    out = cutlass_mla_decode(
        query[..., :512], query[..., 512:], problem.kv_cache, problem.seq_lens, problem.block_tables,
        torch.zeros(0, dtype=torch.uint8), problem.softmax_scale,
    )  # fmt: skip
    assert out.shape == (3, 3, 512)
    assert_matches(problem, out[:, None])


def test_workspace_size():
    assert sm100_cutlass_mla_get_workspace_size(4096, 64, 148, -1) == workspace_bytes()
    assert cutlass_mla_get_workspace_size(4096, 64) == workspace_bytes()


REFUSED = {
    "out": (
        {"out": torch.zeros(3, 2, 512, dtype=torch.bfloat16)},
        ValueError,
        r"^out has shape \[3, 2, 512\]: must be",
    ),
    "lse": ({"lse": torch.zeros(3, 1, 3)}, ValueError, r"^lse has shape \[3, 1, 3\]: must be"),
    "q_nope": ({"q_nope": torch.zeros(3, 3, 576).bfloat16()}, ValueError, r"^q_nope has shape \[3, 3, 576\]"),
    "q_pe": ({"q_pe": torch.zeros(3, 4, 64).bfloat16()}, ValueError, "^q_pe is torch.bfloat16"),
    "scale": ({"scale": "1"}, TypeError, "^scale is a str"),
    "page_table": ({"page_table": torch.zeros(3, 4)}, TypeError, "^page_table has dtype torch.float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changes, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call_vllm(one_token_problem(), **changes)
