from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from tests.wrappers.compat.peers import hostile_problem
from wrappers.compat import use_backend
from wrappers.compat.flashmla import (
    FlashMLASchedMeta,
    flash_mla_with_kvcache,
    flash_mla_with_kvcache_fp8,
    get_mla_metadata,
    get_mla_metadata_dense_fp8,
)
from wrappers.testing import DEFAULT_SCALE, assert_matches


def call(problem, **changes):
    arguments = {
        "q": problem.query, "k_cache": problem.kv_cache.unsqueeze(2), "block_table": problem.block_tables,
        "cache_seqlens": problem.seq_lens, "head_dim_v": 512, "tile_scheduler_metadata": get_mla_metadata()[0],
        "softmax_scale": problem.softmax_scale, "causal": problem.is_causal, **changes,
    }  # fmt: skip
    return flash_mla_with_kvcache(**arguments)


def test_metadata_is_the_peers():
    metadata, nothing = get_mla_metadata(torch.zeros(3), 128, num_heads_k=1)
    assert isinstance(metadata, FlashMLASchedMeta) and nothing is None
    assert not metadata.have_initialized and metadata.tile_scheduler_metadata is metadata.num_splits is None


@pytest.mark.parametrize(
    "dtype, causal, backend",
    [
        *itertools.product((torch.bfloat16, torch.float16), (True, False), ("torch",)),
        (torch.bfloat16, True, "emulator"),
        (torch.float16, False, "emulator"),
    ],
    ids=str,
)
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


def test_metadata_is_refreshed_in_place():
    metadata = get_mla_metadata()[0]
    assert metadata.copy_(get_mla_metadata()[0]) is metadata
    with pytest.raises(TypeError, match="other is a NoneType: must be what get_mla_metadata"):
        metadata.copy_(None)


def test_the_callers_output():
    problem = hostile_problem()
    out = torch.empty(problem.out_shape, dtype=torch.bfloat16)
    result, _ = call(problem, out=out)
    assert result is out
    assert_matches(problem, out)


@pytest.mark.parametrize("descale", [None, (0.5, 3.0)])
def test_fp8_with_scales_on_the_device(descale):
    problem = hostile_problem(torch.float8_e4m3fn)
    metadata = get_mla_metadata_dense_fp8(problem.seq_lens, 6, 1)
    assert [list(each.shape) for each in metadata] == [[1, 8], [4]] and metadata[0].dtype == torch.int32
    scales = {"softmax_scale": problem.softmax_scale}
    if descale:
        scales = {"softmax_scale": problem.softmax_scale / 1.5}
        scales |= {name: torch.tensor([value]) for name, value in zip(("descale_q", "descale_k"), descale, strict=True)}
        problem = replace(problem, output_scale=descale[1])
    out, lse = flash_mla_with_kvcache_fp8(
        problem.query, problem.kv_cache.unsqueeze(2), problem.block_tables, problem.seq_lens, 512, *metadata,
        causal=True, **scales,
    )  # fmt: skip
    assert out.dtype == torch.bfloat16 and lse.shape == (3, 3, 2)
    assert_matches(problem, out, lse.masked_fill(lse == math.inf, -math.inf).transpose(1, 2))
    with pytest.raises(TypeError, match="^q has dtype torch.bfloat16"):
        flash_mla_with_kvcache_fp8(
            problem.query.bfloat16(), problem.kv_cache, problem.block_tables, problem.seq_lens, 512, *metadata
        )


REFUSED = {
    "enable_batch_invariant": (
        {"enable_batch_invariant": True}, ValueError, "enable_batch_invariant=True: must be False",
    ),
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
