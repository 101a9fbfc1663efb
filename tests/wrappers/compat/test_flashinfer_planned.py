"""FlashInfer's planned calls: `BatchMLAPagedAttentionWrapper` and the PrimTS wrapper and function."""

from __future__ import annotations

import pytest
import torch

from tests.wrappers.compat.peers import LENGTHS, in_base
from wrappers.compat.flashinfer_planned import BatchMLAPagedAttentionWrapper, MLAPlanMetadata, table_of
from wrappers.compat.flashinfer_prims import BatchMLADecodePagedTSWrapper, batch_mla_decode_with_paged_kv_cache
from wrappers.testing import assert_matches, make_problem

PAGE_SIZE = 32


def ragged_problem(dtype=torch.bfloat16, is_causal=True):
    return make_problem(3, 3, 4, LENGTHS, page_size=PAGE_SIZE, dtype=dtype, is_causal=is_causal, query_lens=[2, 0, 4])


def csr(problem) -> tuple[torch.Tensor, ...]:
    """qo_indptr, kv_indptr, kv_indices, kv_len_arr."""
    pages = [-(-length // PAGE_SIZE) for length in problem.seq_lens.tolist()]
    indices = torch.cat([table[:count] for table, count in zip(problem.block_tables, pages, strict=True)])
    return problem.cu_seqlens_q, torch.tensor([0, *pages]).cumsum(0).int(), indices, problem.seq_lens


def planned(problem, **changes):
    wrapper = BatchMLAPagedAttentionWrapper(torch.zeros(0, dtype=torch.uint8), backend="cute-dsl")
    given = {
        "metadata": MLAPlanMetadata.dense(problem.cu_seqlens_q, problem.block_tables, problem.seq_lens, 4),
        "num_heads": 3, "head_dim_ckv": 512, "head_dim_kpe": 64, "page_size": PAGE_SIZE, "causal": problem.is_causal,
        "sm_scale": problem.softmax_scale, "q_data_type": problem.query.dtype, "kv_data_type": problem.query.dtype,
        **changes,
    }  # fmt: skip
    wrapper.plan(**given)
    return wrapper


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("mode", "base"), [("basee", "e"), ("base2", "2")])
def test_packed_inputs_and_dense_metadata(is_causal, mode, base):
    problem = ragged_problem(is_causal=is_causal)
    out, lse = planned(problem, lse_mode=mode).run(
        query=problem.query, kv_cache=problem.kv_cache, return_lse=True, return_lse_base_on_e=mode == "basee"
    )
    assert lse.shape == (6, 3)
    assert_matches(problem, out, lse / in_base(torch.ones(()), base))


def test_split_inputs_and_csr_metadata():
    problem = ragged_problem()
    wrapper = planned(problem, metadata=MLAPlanMetadata.csr(*csr(problem)))
    halves = problem.query[..., :512], problem.query[..., 512:]
    cache_halves = problem.kv_cache[..., :512], problem.kv_cache[..., 512:]
    out = wrapper.run(*halves, *cache_halves)
    assert_matches(problem, out)
    assert torch.equal(wrapper.run(query=tuple(half.clone() for half in halves), kv_cache=cache_halves), out)
    names = ("qo_indptr", "kv_indptr", "kv_indices", "kv_len_arr")
    one_by_one = planned(problem, metadata=None, **dict(zip(names, csr(problem), strict=True)))
    assert torch.equal(one_by_one.run(query=problem.query, kv_cache=problem.kv_cache), out)
    with pytest.raises(ValueError, match="ckv_cache and kpe_cache: must be the two parts of one tensor"):
        wrapper.run(*halves, *(half.clone() for half in cache_halves))


def test_lengths_are_read_when_it_runs():
    problem = ragged_problem()
    lengths = torch.zeros_like(problem.seq_lens)
    wrapper = planned(problem, metadata=MLAPlanMetadata.dense(problem.cu_seqlens_q, problem.block_tables, lengths, 4))
    assert (wrapper.run(query=problem.query, kv_cache=problem.kv_cache) == 0).all()
    lengths.copy_(problem.seq_lens)
    assert_matches(problem, wrapper.run(query=problem.query, kv_cache=problem.kv_cache))


def test_scales_of_a_run_and_an_e4m3_output():
    problem = ragged_problem(torch.float8_e4m3fn)
    plain = planned(problem).run(query=problem.query, kv_cache=problem.kv_cache)
    scaled = planned(problem, sm_scale=9.0, scale_mode="bmm-scalar", output_dtype=torch.float8_e4m3fn).run(
        query=problem.query, kv_cache=problem.kv_cache, bmm1_scale=problem.softmax_scale, bmm2_scale=2.0
    )
    assert plain.dtype == torch.bfloat16 and scaled.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(scaled.float(), 2.0 * plain.float(), rtol=2**-3, atol=2**-8)


def test_table_of_no_pages():
    assert table_of(torch.zeros(3, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)).tolist() == [[-1], [-1]]


PLAN_REFUSED = {
    "use_sinks": ({"use_sinks": True}, ValueError, "use_sinks=True: must be False"),
    "skip_softmax": ({"skip_softmax": True}, ValueError, "skip_softmax=True: must be False"),
    "output_scale": ({"output_scale": "per-tensor"}, ValueError, "output_scale='per-tensor': must be 'none'"),
    "scale_mode": ({"scale_mode": "kv-per-tensor"}, ValueError, "scale_mode='kv-per-tensor': must be one of"),
    "kv_data_type": ({"kv_data_type": torch.float8_e4m3fn}, ValueError, "kv_data_type=torch.float8_e4m3fn: must be"),
    "head_dim_kpe": ({"head_dim_kpe": 0}, ValueError, "^head_dim_kpe=0: must be 64"),
    "metadata": ({"metadata": None}, TypeError, "qo_indptr, kv_indptr, kv_indices, kv_len_arr is None"),
    "half of it": (
        {"metadata": None, "seq_lens": torch.zeros(3).int()}, TypeError, "cum_seq_lens_q, block_tables is None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAN_REFUSED)
def test_refused_by_plan(name):
    changes, error, message = PLAN_REFUSED[name]
    with pytest.raises(error, match=message):
        planned(ragged_problem(), **changes)


RUN_REFUSED = {
    "sinks": ({"sinks": torch.zeros(3)}, ValueError, "sinks=a Tensor: must be None"),
    "o_scale": ({"o_scale": 1.0}, ValueError, "o_scale=1.0: must be None"),
    "return_lse": ({"return_lse": True}, ValueError, "a log-sum-exp in base 2, but lse_mode planned none"),
    "bmm1_scale": ({"bmm1_scale": 1.0}, ValueError, "must come together"),
    "query": (
        {"query": torch.zeros(6, 4, 576).bfloat16()},
        ValueError,
        r"query is torch.bfloat16 \[6, 4, 576\]: planned",
    ),
    "kv_cache": ({"kv_cache": None}, TypeError, "give either kv_cache or ckv_cache and kpe_cache"),
    "page_table": ({"page_table": torch.zeros(3, 4)}, TypeError, "^page_table has dtype torch.float32"),
}


@pytest.mark.parametrize("name", RUN_REFUSED)
def test_refused_by_run(name):
    changes, error, message = RUN_REFUSED[name]
    problem = ragged_problem()
    with pytest.raises(error, match=message):
        planned(problem).run(**{"query": problem.query, "kv_cache": problem.kv_cache, **changes})


def test_before_a_plan():
    for wrapper in (BatchMLAPagedAttentionWrapper(torch.zeros(8)), BatchMLADecodePagedTSWrapper()):
        given = (None,) * 4
        with pytest.raises(RuntimeError, match="before plan"):
            wrapper.run(*given)


@pytest.mark.parametrize("is_causal", [True, False])
def test_prims_one_shot(is_causal):
    options = {"bmm1_scale": 576**-0.5, "mask_type": "causal" if is_causal else "dense"}
    fixed = make_problem(3, 3, 2, LENGTHS, page_size=PAGE_SIZE, is_causal=is_causal)
    assert_matches(fixed, batch_mla_decode_with_paged_kv_cache(*fixed.tensors, **options))
    ragged = ragged_problem(is_causal=is_causal)
    out = torch.empty(ragged.out_shape, dtype=torch.bfloat16)
    result = batch_mla_decode_with_paged_kv_cache(*ragged.tensors, qo_indptr=ragged.cu_seqlens_q, out=out, **options)
    assert result is out
    assert_matches(ragged, out)


def test_prims_planned():
    problem = ragged_problem(torch.float8_e4m3fn)
    wrapper = BatchMLADecodePagedTSWrapper()
    shape = ("cpu", 3, 3, 512, 64, PAGE_SIZE, 70)
    dtypes = {name: torch.float8_e4m3fn for name in ("q_data_type", "kv_data_type", "o_data_type")}
    wrapper.plan(*shape, max_seq_len_q=4, packed_query=True, **dtypes, validate=False)
    out = wrapper.run(*problem.tensors, qo_indptr=problem.cu_seqlens_q, bmm1_scale=problem.softmax_scale)
    assert out.dtype == torch.float8_e4m3fn
    with pytest.raises(TypeError, match="qo_indptr is None"):
        wrapper.run(*problem.tensors)
    with pytest.raises(ValueError, match="num_heads=2: planned was 3"):
        wrapper.run(problem.query[:, :2], *problem.tensors[1:], qo_indptr=problem.cu_seqlens_q)
    with pytest.raises(ValueError, match=r"qo_indptr\[3\]=6, .* must be 0 to max_seq_len_q=3 more"):
        wrapper.plan(*shape, max_seq_len_q=3, packed_query=True, **dtypes)
        wrapper.run(*problem.tensors, qo_indptr=problem.cu_seqlens_q)
    with pytest.raises(ValueError, match="mask_type='tree': must be one of"):
        wrapper.plan(*shape, max_seq_len_q=3, packed_query=True, **dtypes, mask_type="tree")
