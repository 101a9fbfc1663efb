from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.wrappers.compat.peers import LENGTHS, hostile_problem, in_base
from wrappers.call import KeyShard
from wrappers.compat import use_backend
from wrappers.compat.flashinfer import (
    cake_mla_varq_dcp_decode,
    cute_dsl_mla_decode,
    peer_lse_base,
    trtllm_batch_decode_with_kv_cache_mla,
)
from wrappers.decode import workspace_bytes
from wrappers.testing import assert_matches, make_problem, shard


def arguments(problem, **changes):
    query, kv_cache, block_tables, seq_lens = problem.tensors
    return {
        "query": query, "kv_cache": kv_cache, "workspace_buffer": torch.zeros(0, dtype=torch.uint8),
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "block_tables": block_tables, "seq_lens": seq_lens,
        "max_seq_len": max(LENGTHS), **changes,
    }  # fmt: skip


def call(problem, **changes):
    return trtllm_batch_decode_with_kv_cache_mla(
        **arguments(problem, **{"qk_nope_head_dim": 128, "bmm1_scale": problem.softmax_scale, **changes})
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("backend, base", [("trtllm-gen", "2"), ("cute-dsl", "e"), ("auto", "2")])
def test_output_and_lse(dtype, backend, base):
    """The log-sum-exp is [batch * tokens, heads], in the base of the kernel that the peer would run."""
    problem = hostile_problem(dtype)
    out, lse = call(problem, backend=backend, return_lse=True)
    assert out.dtype == torch.bfloat16 and lse.shape == (6, 3)
    assert_matches(problem, out, lse.view(3, 2, 3) / in_base(torch.ones(()), base))
    assert torch.equal(call(problem, backend=backend), out)


@pytest.mark.parametrize(
    "backend, heads, page_size, needs_cute_dsl, base",
    [
        ("auto", 64, 32, False, "2"), ("auto", 65, 32, False, "e"), ("auto", 127, 64, False, "e"),
        ("auto", 128, 64, False, "2"), ("auto", 16, 128, False, "e"), ("auto", 16, 64, True, "e"),
        ("trtllm-gen", 96, 128, True, "2"), ("cute-dsl", 16, 64, False, "e"),
    ],
)  # fmt: skip
def test_the_base_follows_the_peers_choice_of_kernel(backend, heads, page_size, needs_cute_dsl, base):
    cache = torch.empty(1, 1, page_size, 576, dtype=torch.bfloat16)
    assert peer_lse_base(backend, heads, cache, needs_cute_dsl) == base


@pytest.mark.parametrize("backend", ["trtllm-gen", "cute-dsl"])
def test_the_base_that_is_asked_for_wins(backend):
    problem = hostile_problem()
    for name, base in (("basee", "e"), ("base2", "2")):
        out, lse = call(problem, backend=backend, return_lse=True, return_lse_base=name)
        assert_matches(problem, out, lse.view(3, 2, 3) / in_base(torch.ones(()), base))
    with pytest.raises(ValueError, match="lse_scale=2.0: must be"):
        cute_dsl_mla_decode(**arguments(problem, softmax_scale=1.0, lse_scale=2.0))


def test_ragged_queries_of_one_rank_with_their_log_sum_exp():
    """What FlashInfer 0.7.2 added: compact queries, context parallelism and the log-sum-exp in one call."""
    problem = make_problem(3, 3, 4, LENGTHS, page_size=32, query_lens=[2, 0, 4])
    for rank in range(3):
        own = shard(problem, 3, rank, 1)
        given = arguments(
            own, softmax_scale=own.softmax_scale, seq_lens=KeyShard(3, rank, 1).local_keys(problem.seq_lens),
            causal_seqlens_kv_global=problem.seq_lens, cum_seq_lens_q=problem.cu_seqlens_q, max_q_len=4,
            enable_dcp=True, cp_world=3, cp_rank=rank, return_lse=True,
        )  # fmt: skip
        out, lse = cute_dsl_mla_decode(**given)
        assert_matches(own, out, lse)
        for name in ("kv_lora_rank", "qk_rope_head_dim"):
            del given[name]
        assert all(map(torch.equal, cake_mla_varq_dcp_decode(**given), (out, lse)))
    with pytest.raises(ValueError, match="backend='auto': must be one of"):
        cake_mla_varq_dcp_decode(**given, backend="auto")


@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 3)])
def test_the_callers_memory(shape):
    problem = hostile_problem(cache_rank=4)
    out, lse = torch.empty(problem.out_shape, dtype=torch.bfloat16), torch.empty(shape)
    workspace = torch.zeros(workspace_bytes(), dtype=torch.uint8)
    with use_backend("emulator"):
        result = call(
            problem, out=out, lse=lse, return_lse=True, backend="cute-dsl", workspace_buffer=workspace,
            enable_pdl=True, cute_dsl_impl="monolithic", is_var_seq=False,
            multi_ctas_kv_counter_buffer=torch.zeros(8, dtype=torch.uint8), use_fp16_softmax=False,
        )  # fmt: skip
    assert result[0] is out and result[1] is lse
    assert_matches(problem, out, lse.view(3, 2, 3))


def test_lse_memory_without_return_lse_is_left_alone():
    lse = torch.full((6, 3), 7.0)
    assert isinstance(call(hostile_problem(), lse=lse), torch.Tensor)
    assert (lse == 7).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_cute_dsl_mla_decode(dtype):
    problem = hostile_problem(dtype)
    given = arguments(problem, softmax_scale=problem.softmax_scale, return_lse=True)
    out, lse = cute_dsl_mla_decode(**given)
    assert out.dtype == problem.out_dtype and lse.shape == (3, 2, 3)
    assert_matches(problem, out, lse)
    assert torch.equal(cute_dsl_mla_decode(**given, out_dtype=problem.out_dtype)[0], out)
    with pytest.raises(ValueError, match="out_dtype=torch.float32: must be None or"):
        cute_dsl_mla_decode(**given, out_dtype=torch.float32)


@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_an_fp16_query_has_a_bfloat16_output(backend):
    """As the peer documents it; in the caller's memory too, and scaled before it could overflow."""
    problem = hostile_problem(torch.float16)
    half, half_lse = cute_dsl_mla_decode(
        **arguments(problem, softmax_scale=problem.softmax_scale, return_lse=True, lse_scale=1.0)
    )
    with use_backend(backend):
        out, lse = call(problem, return_lse=True)
        assert out.dtype == torch.bfloat16 and lse.shape == (6, 3)
        torch.testing.assert_close(out, half.bfloat16(), rtol=2**-7, atol=2**-9)
        torch.testing.assert_close(lse.view(3, 2, 3), half_lse, rtol=1e-4, atol=1e-4)
        mine = torch.zeros(problem.out_shape, dtype=torch.bfloat16)
        assert call(problem, out=mine, return_lse=True)[0] is mine and torch.equal(mine, out)
        large, _ = call(problem, bmm2_scale=torch.tensor([1e6]), return_lse=True)
    torch.testing.assert_close(large.double(), 1e6 * out.double(), rtol=2**-6, atol=0.0)
    assert large.abs().max() > torch.finfo(torch.float16).max
    mine.fill_(7.0)
    with pytest.raises(TypeError, match="^out has dtype torch.float16: must be torch.bfloat16"):
        call(problem, out=half)
    with pytest.raises(ValueError, match="^bmm2_scale has shape"):
        call(problem, out=mine, bmm2_scale=torch.ones(2))
    assert (mine == 7).all()


def test_hints_and_integers_of_any_kind():
    problem = hostile_problem()
    expected = call(problem)
    given = {"max_seq_len": 0, "kv_lora_rank": np.int64(512), "qk_rope_head_dim": np.int32(64), "cp_world": np.int64(1)}
    given |= {"cp_rank": np.int8(0), "sparse_mla_top_k": np.int64(0), "sinks": None}
    assert torch.equal(call(problem, **given), expected)
    assert torch.equal(call(problem, max_seq_len=np.int32(5)), expected)
    given = arguments(problem, softmax_scale=problem.softmax_scale)
    assert torch.equal(cute_dsl_mla_decode(**given, sinks=None), expected)
    with pytest.raises(ValueError, match="sinks=a Tensor: must be None"):
        cute_dsl_mla_decode(**given, sinks=torch.zeros(3))
    ragged = make_problem(3, 3, 4, [5, 0, 70], page_size=32, query_lens=[2, 0, 4])
    out = call(ragged, cum_seq_lens_q=ragged.cu_seqlens_q, max_q_len=np.int64(4), max_seq_len=np.int64(0))
    assert_matches(ragged, out)


def test_scales():
    problem = hostile_problem()
    torch.testing.assert_close(call(problem, bmm2_scale=0.5), 0.5 * call(problem))
    on_device = {"bmm1_scale": torch.tensor([problem.softmax_scale]), "bmm2_scale": torch.tensor([0.5])}
    torch.testing.assert_close(call(problem, **on_device), 0.5 * call(problem))


@pytest.mark.parametrize("max_q_len", [None, 4, 9])
@pytest.mark.parametrize("public", [True, False])
def test_compact_query(max_q_len, public):
    problem = make_problem(3, 3, 4, [5, 0, 70], page_size=32, query_lens=[2, 0, 4])
    given = {"cum_seq_lens_q": problem.cu_seqlens_q, "max_q_len": max_q_len, "return_lse": True}
    if public:
        out, lse = call(problem, backend="cute-dsl", **given)
    else:
        out, lse = cute_dsl_mla_decode(**arguments(problem, softmax_scale=problem.softmax_scale, **given))
    assert out.shape == (6, 3, 512) and lse.shape == (6, 3)
    assert_matches(problem, out, lse)


def test_context_parallel_ranks():
    """Each rank's part: what it holds, under the global causal bound; natural log-sum-exp, as the peer's CuTe DSL."""
    problem = hostile_problem(torch.float8_e4m3fn)
    for rank in range(2):
        own = shard(problem, 2, rank, 1)
        local = KeyShard(2, rank, 1).local_keys(problem.seq_lens)
        out, lse = call(
            own, seq_lens=local, enable_dcp=True, cp_world=2, cp_rank=rank, causal_seqlens_kv_global=problem.seq_lens,
            return_lse=True,
        )  # fmt: skip
        assert_matches(own, out, lse.view(3, 2, 3))


A_TENSOR = torch.zeros(3, dtype=torch.int32)
COMPACT = torch.zeros(6, 3, 576, dtype=torch.bfloat16)
REFUSED = {
    "fp32 query": ({"query": torch.zeros(3, 2, 3, 576)}, TypeError, "query has dtype torch.float32"),
    "sparse_mla_top_k": ({"sparse_mla_top_k": 64}, ValueError, "sparse_mla_top_k=64: must be 0"),
    "sinks": ({"sinks": [torch.zeros(3)]}, ValueError, "sinks=a list: must be None"),
    "skip_softmax_threshold_scale_factor": (
        {"skip_softmax_threshold_scale_factor": 1e-30}, ValueError, "skip_softmax_threshold_scale_factor=1e-30",
    ),
    "backend xqa": ({"backend": "xqa"}, ValueError, "backend='xqa': must be one of 'auto', 'trtllm-gen', 'cute-dsl'"),
    "backend sparse": ({"backend": "sparse"}, ValueError, "backend='sparse'"),
    "uses_shared_paged_kv_idx": (
        {"uses_shared_paged_kv_idx": False}, ValueError, "uses_shared_paged_kv_idx=False: must be True",
    ),
    "cute_dsl_impl": ({"cute_dsl_impl": "fast"}, ValueError, "cute_dsl_impl='fast': must be one of"),
    "sparse_mla_top_k_lens": ({"sparse_mla_top_k_lens": A_TENSOR}, ValueError, "sparse_mla_top_k_lens=a Tensor"),
    "use_fp16_softmax": ({"use_fp16_softmax": True}, ValueError, "use_fp16_softmax=True: must be None"),
    "seq_lens": ({"seq_lens": None}, TypeError, "seq_lens is a NoneType"),
    "return_lse_base": ({"return_lse_base": "e"}, ValueError, "return_lse_base='e': must be one of"),
    "kv_lora_rank": ({"kv_lora_rank": 256}, ValueError, "kv_lora_rank=256: must be 512"),
    "max_seq_len": ({"max_seq_len": -1}, ValueError, "max_seq_len=-1: must be at least 0"),
    "lse of FlashMLA's layout": (
        {"lse": torch.zeros(3, 3, 2), "return_lse": True}, ValueError, r"lse has shape \[3, 3, 2\]: must be",
    ),
    "lse with gaps": (
        {"lse": torch.zeros(6, 6)[:, :3], "return_lse": True}, ValueError, r"lse has strides \[6, 1\]: must be",
    ),
    "workspace_buffer": ({"workspace_buffer": torch.zeros(8)}, TypeError, "workspace_buffer has dtype torch.float32"),
    "max_q_len": ({"max_q_len": 4}, ValueError, "max_q_len=4: needs cum_seq_lens_q; without, it must be None"),
    "max_q_len of no tokens": (
        {"query": COMPACT, "cum_seq_lens_q": torch.zeros(4, dtype=torch.int32), "max_q_len": 0}, ValueError,
        "max_q_len=0: must be at least 1",
    ),
    "cum_seq_lens_q of one": (
        {"query": COMPACT, "cum_seq_lens_q": torch.zeros(1, dtype=torch.int32)}, ValueError,
        r"cum_seq_lens_q has shape \[1\]",
    ),
    "enable_dcp without lse": (
        {"enable_dcp": True, "causal_seqlens_kv_global": A_TENSOR}, ValueError,
        "return_lse=False: must be True with enable_dcp=True",
    ),
    "enable_dcp without bound": (
        {"enable_dcp": True, "return_lse": True}, TypeError,
        "causal_seqlens_kv_global is None: enable_dcp=True needs it",
    ),
    "bmm1_scale of two": ({"bmm1_scale": torch.ones(2)}, ValueError, "^bmm1_scale has shape"),
    "bmm2_scale a string": ({"bmm2_scale": "1"}, TypeError, "^bmm2_scale is a str"),
    "block_tables of int64": (
        {"block_tables": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "^block_tables has dtype torch.int64",
    ),
    "cum_seq_lens_q of more tokens": (
        {"query": COMPACT, "cum_seq_lens_q": torch.tensor([0, 2, 4, 9]).int(), "max_q_len": 6, "out": None}, ValueError,
        r"^cum_seq_lens_q\[3\]=9: must be at most query.shape\[0\]=6",
    ),
    "max_q_len too small": (
        {"query": COMPACT, "cum_seq_lens_q": torch.tensor([0, 2, 4, 6]).int(), "max_q_len": 1, "out": None}, ValueError,
        r"^cum_seq_lens_q\[1\]=2, .* must be 0 to max_q_len=1 more",
    ),
    "cp_rank": ({"cp_rank": 1}, ValueError, "cp_rank=1: needs enable_dcp=True"),
    "cp_world": ({"cp_world": 2}, ValueError, "cp_world=2: needs enable_dcp=True"),
    "causal_seqlens_kv_global": (
        {"causal_seqlens_kv_global": A_TENSOR}, ValueError, "causal_seqlens_kv_global=a Tensor: needs enable_dcp=True",
    ),
    "out of another shape": (
        {"out": torch.full((3, 2, 3, 512), 7.0).bfloat16()[:, :1]}, ValueError, r"^out has shape \[3, 1, 3, 512\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changes, error, message = REFUSED[name]
    out = torch.full((3, 2, 3, 512), 7.0, dtype=torch.bfloat16)
    with pytest.raises(error, match=message):
        call(hostile_problem(), **{"out": out, **changes})
    assert (out == 7).all()
