from __future__ import annotations

import math

import pytest
import torch

from tests.wrappers.compat.peers import REQUIRED, hostile_problem, parameters
from wrappers.compat import use_backend
from wrappers.compat.flashmla import FlashMLASchedMeta, flash_mla_with_kvcache, get_mla_metadata
from wrappers.testing import DEFAULT_SCALE, assert_matches


def call(problem, **changes):
    arguments = {
        "q": problem.query, "k_cache": problem.kv_cache.unsqueeze(2), "block_table": problem.block_tables,
        "cache_seqlens": problem.seq_lens, "head_dim_v": 512, "tile_scheduler_metadata": get_mla_metadata()[0],
        "softmax_scale": problem.softmax_scale, "causal": problem.is_causal, **changes,
    }  # fmt: skip
    return flash_mla_with_kvcache(**arguments)


def test_parameters_are_the_peers():
    assert parameters(flash_mla_with_kvcache) == [
        ("q", REQUIRED), ("k_cache", REQUIRED), ("block_table", REQUIRED), ("cache_seqlens", REQUIRED),
        ("head_dim_v", REQUIRED), ("tile_scheduler_metadata", REQUIRED), ("num_splits", None), ("softmax_scale", None),
        ("causal", False), ("is_fp8_kvcache", False), ("indices", None), ("attn_sink", None), ("extra_k_cache", None),
        ("extra_indices_in_kvcache", None), ("topk_length", None), ("extra_topk_length", None),
    ]  # fmt: skip


def test_metadata_is_the_peers():
    metadata, nothing = get_mla_metadata(torch.zeros(3), 128, num_heads_k=1)
    assert isinstance(metadata, FlashMLASchedMeta) and nothing is None
    assert not metadata.have_initialized and metadata.tile_scheduler_metadata is metadata.num_splits is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_output_and_lse(dtype, causal, backend):
    problem = hostile_problem(dtype, causal)
    with use_backend(backend):
        out, lse = call(problem)
    assert out.dtype == dtype
    assert lse.shape == (3, 3, 2) and lse.is_contiguous(), "[batch, heads, tokens]"
    empty = ~problem.active_rows().transpose(1, 2)
    assert empty.any() and (lse[empty] == math.inf).all(), "the peer's log-sum-exp of a row without keys"
    assert_matches(problem, out, lse.masked_fill(empty, -math.inf).transpose(1, 2))


def test_defaults_are_dense_and_one_over_the_root_of_the_head_dim():
    problem = hostile_problem(is_causal=False)
    out, lse = flash_mla_with_kvcache(
        problem.query, problem.kv_cache.unsqueeze(2), problem.block_tables, problem.seq_lens, 512, get_mla_metadata()[0]
    )
    assert problem.softmax_scale == DEFAULT_SCALE == 576**-0.5
    assert_matches(problem, out, lse.masked_fill(lse == math.inf, -math.inf).transpose(1, 2))


def test_one_schedule_serves_any_lengths_and_shapes():
    metadata = get_mla_metadata()[0]
    for problem in (hostile_problem(), hostile_problem(seed=3), hostile_problem(torch.float16)):
        out, _ = call(problem, tile_scheduler_metadata=metadata)
        assert_matches(problem, out)


REFUSED = {
    "head_dim_v": ({"head_dim_v": 576}, ValueError, "head_dim_v=576: must be 512"),
    "tile_scheduler_metadata": (
        {"tile_scheduler_metadata": torch.zeros(1)}, TypeError, "tile_scheduler_metadata is a Tensor",
    ),
    "num_splits": ({"num_splits": torch.zeros(3)}, ValueError, "num_splits=a Tensor: must be None"),
    "is_fp8_kvcache": ({"is_fp8_kvcache": True}, ValueError, "is_fp8_kvcache=True: must be False"),
    "q": ({"q": torch.zeros(3, 2, 3, 512, dtype=torch.bfloat16)}, ValueError, r"^q.shape\[3\]=512: must be 576"),
    "q a list": ({"q": [1.0]}, TypeError, "^q is a list"),
    "block_table": ({"block_table": None}, TypeError, "^block_table is a NoneType"),
    "block_table on another device": (
        {"block_table": torch.zeros(3, 9, dtype=torch.int32, device="meta")}, ValueError,
        "^block_table is on meta: must be on the device of q, cpu",
    ),
    "block_table too narrow": (
        {"block_table": torch.zeros(3, 1, dtype=torch.int32)}, ValueError,
        r"^block_table.shape\[1\]=1: cache_seqlens\[2\]=70 with page_size=32 needs at least 3 entries",
    ),
    "cache_seqlens": ({"cache_seqlens": None}, TypeError, "^cache_seqlens is a NoneType"),
    "causal": ({"causal": 1}, TypeError, "^causal is a int: must be a bool"),
    "k_cache of two heads": (
        {"k_cache": torch.zeros(9, 32, 2, 576, dtype=torch.bfloat16)}, ValueError, "^k_cache has shape",
    ),
    **{
        name: ({name: torch.zeros(1)}, ValueError, f"{name}=a Tensor: must be None")
        for name in (
            "indices", "attn_sink", "extra_k_cache", "extra_indices_in_kvcache", "topk_length", "extra_topk_length"
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changes, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call(hostile_problem(), **changes)
