"""`forward_mqa` called with metadata as vLLM 0.33 builds it. Shapes, dtypes and strides are recorded from the engine's
run of scripts/test_engines.sh; no engine is installed here."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import replace

import pytest
import torch

from tests.wrappers.engines import fake_vllm
from wrappers import engines
from wrappers.call import KeyShard
from wrappers.engines.settings import BACKEND_VARIABLE, engine_backend
from wrappers.testing import MlaProblem, assert_matches, make_problem, shard

PAGE_SIZE = 32
ARGUMENTS = {
    "num_heads": 3, "head_size": 576, "scale": 192**-0.5, "num_kv_heads": 1, "alibi_slopes": None,
    "sliding_window": None, "kv_cache_dtype": "auto", "logits_soft_cap": None, "attn_type": "decoder",
    "kv_sharing_target_layer_name": None, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "qk_head_dim": 192, "v_head_dim": 128, "kv_b_proj": None,
}  # fmt: skip


@pytest.fixture
def engine(monkeypatch):
    """`wrappers.engines.vllm`, imported anew over the stand-ins; parallel settings are a test's own."""
    for name, module in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "wrappers.engines.vllm", raising=False)
    monkeypatch.setenv(BACKEND_VARIABLE, "torch")
    monkeypatch.setattr(fake_vllm.CONFIG, "parallel_config", types.SimpleNamespace(cp_kv_cache_interleave_size=1))
    module = importlib.import_module("wrappers.engines.vllm")
    yield module
    sys.modules.pop("wrappers.engines.vllm", None)


def make_impl(engine, world: int = 1, rank: int = 0, interleave: int = 1, **changes):
    impl = engine.BlackwellMLAImpl(**{**ARGUMENTS, **changes})
    impl.dcp_world_size, impl.dcp_rank, impl.need_to_return_lse_for_decode = world, rank, world > 1
    # Resolved after the model is made: the impl must not have kept the first value.
    fake_vllm.CONFIG.parallel_config.cp_kv_cache_interleave_size = interleave
    return impl


def metadata_of(engine, problem: MlaProblem, local_lengths: torch.Tensor | None = None, padding: int = 0):
    """As the engine's builder makes it: slices of longer tensors, the first requests of a batch. `padding`: tokens
    behind the last request's, as in a batch that is padded for a graph."""
    batch = len(problem.seq_lens)
    starts = problem.cu_seqlens_q if problem.cu_seqlens_q is not None else torch.arange(batch + 1).int()
    tokens, most = int(starts[-1]) + padding, int(starts.diff().max())
    spare = torch.full((2,), 99, dtype=torch.int32)
    table = torch.cat([problem.block_tables, torch.zeros(2, problem.block_tables.shape[1], dtype=torch.int32)])
    lengths = problem.seq_lens if local_lengths is None else local_lengths
    builder = engine.MetadataBuilder(None, [], None, torch.device("cpu"))
    decode = builder._build_decode(
        block_table_tensor=table[:batch], seq_lens_device=torch.cat([lengths, spare])[:batch], max_seq_len=70,
        query_start_loc_cpu=starts, query_start_loc_device=torch.cat([starts, spare])[: batch + 1],
        num_decode_tokens=tokens, max_query_len=most,
        dcp_tot_seq_lens_device=None if local_lengths is None else problem.seq_lens,
    )  # fmt: skip
    return builder.metadata_cls(
        num_reqs=batch, max_query_len=most, max_seq_len=70, num_actual_tokens=tokens, query_start_loc=starts,
        slot_mapping=torch.zeros(tokens, dtype=torch.int64), num_decodes=batch, num_decode_tokens=tokens,
        num_prefills=0, causal=problem.is_causal, head_dim=576, decode=decode,
    )  # fmt: skip


def parts_of(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, H, 576] as the layer gives it: the absorbed part packed, the rotary one a slice of [T, H, 128 + 64]."""
    wide = torch.zeros(*query.shape[:2], 192, dtype=query.dtype)
    wide[..., 128:] = query[..., 512:]
    return query[..., :512].contiguous(), wide[..., 128:]


LAYER = types.SimpleNamespace(_q_scale_float=0.5, _k_scale_float=3.0)
SCALE = ARGUMENTS["scale"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_one_token_each(engine, dtype):
    problem = make_problem(3, 3, 1, [5, 0, 70], page_size=PAGE_SIZE, dtype=dtype, softmax_scale=SCALE)
    out, lse = make_impl(engine).forward_mqa(
        parts_of(problem.query[:, 0]), problem.kv_cache, metadata_of(engine, problem), LAYER
    )
    assert out.shape == (3, 3, 512) and out.dtype == dtype and lse is None
    assert_matches(problem, out[:, None])


@pytest.mark.parametrize("is_causal", [True, False])
def test_ragged_verification_in_a_padded_batch(engine, is_causal):
    lens = [2, 0, 4] if is_causal else [4, 4, 4]
    problem = make_problem(
        3, 3, 4, [5, 9, 70], page_size=PAGE_SIZE, query_lens=lens, is_causal=is_causal, softmax_scale=SCALE
    )
    tokens = sum(lens)
    query = torch.cat([problem.query, torch.full((2, 3, 576), torch.nan, dtype=torch.bfloat16)])
    metadata = metadata_of(engine, problem, padding=2)
    out, _ = make_impl(engine).forward_mqa(parts_of(query), problem.kv_cache, metadata, LAYER)
    assert out.shape == (tokens + 2, 3, 512)
    assert (out[tokens:] == 0).all(), "tokens behind the last request's"
    assert_matches(problem, out[:tokens])
    # The mutant: boundaries that spread the tokens evenly, as a uniform batch has them.
    metadata.decode.query_start_loc = (torch.arange(4) * tokens // 3).int()
    if is_causal:
        with pytest.raises(AssertionError):
            wrong, _ = make_impl(engine).forward_mqa(parts_of(query), problem.kv_cache, metadata, LAYER)
            assert_matches(problem, wrong[:tokens])


def test_a_block_that_is_not_causal_may_exceed_the_threshold(engine):
    problem = make_problem(
        2, 3, 4, [9, 70], page_size=PAGE_SIZE, query_lens=[4, 4], is_causal=False, softmax_scale=SCALE
    )
    metadata = metadata_of(engine, problem)
    metadata.decode.max_query_len = 2
    out, _ = make_impl(engine).forward_mqa(problem.query, problem.kv_cache, metadata, LAYER)
    assert_matches(problem, out)


def test_fp8_takes_the_layers_scales(engine):
    problem = make_problem(3, 3, 4, [5, 9, 70], page_size=PAGE_SIZE, dtype=torch.float8_e4m3fn, query_lens=[2, 0, 4])
    problem = replace(problem, softmax_scale=SCALE * 1.5, output_scale=3.0)
    impl = make_impl(engine, kv_cache_dtype="fp8")
    out, _ = impl.forward_mqa(problem.query, problem.kv_cache, metadata_of(engine, problem), LAYER)
    assert out.dtype == torch.bfloat16
    assert_matches(problem, out)


@pytest.mark.parametrize("interleave", [1, 16])
def test_ranks_of_context_parallelism_ragged_with_lse_in_16_bits(engine, interleave):
    """What no other MLA backend of vLLM does in one call."""
    problem = make_problem(3, 3, 4, [5, 0, 70], page_size=PAGE_SIZE, query_lens=[2, 1, 4], softmax_scale=SCALE)
    for rank in range(2):
        own = shard(problem, 2, rank, interleave, page_size=PAGE_SIZE)
        local = KeyShard(2, rank, interleave).local_keys(problem.seq_lens)
        impl = make_impl(engine, 2, rank, interleave)
        out, lse = impl.forward_mqa(own.query, own.kv_cache, metadata_of(engine, own, local), LAYER)
        assert lse.shape == (7, 3) and lse.dtype == torch.float32 and impl.lse_base_on_e
        assert_matches(own, out, lse)
        # The mutant: this rank's lengths taken for all ranks'.
        metadata = metadata_of(engine, own, local)
        metadata.decode.dcp_tot_seq_lens = local
        with pytest.raises(AssertionError):
            assert_matches(own, *impl.forward_mqa(own.query, own.kv_cache, metadata, LAYER))


def test_through_the_kernel(engine, monkeypatch):
    """Ragged, one rank of two, interleaved, with its log-sum-exp, in bf16; nothing is compiled ahead."""
    problem = make_problem(3, 3, 4, [5, 0, 70], page_size=PAGE_SIZE, query_lens=[2, 1, 4], softmax_scale=SCALE)
    own, local = shard(problem, 2, 1, 16, page_size=PAGE_SIZE), KeyShard(2, 1, 16).local_keys(problem.seq_lens)
    impl = make_impl(engine, 2, 1, 16)
    monkeypatch.setattr(impl, "_backend", "emulator")
    assert_matches(own, *impl.forward_mqa(own.query, own.kv_cache, metadata_of(engine, own, local), LAYER))


def test_kernels_that_a_server_compiles_ahead(engine, monkeypatch):
    shapes = engine.decode_shapes(torch.bfloat16, 16, 64, 6, dcp_world=2, dcp_interleave=4)
    assert [(each.seq_lens_q, each.ragged, each.lse_bases, each.num_heads) for each in shapes] == [
        ((1,), (False,), ("e",), 32), ((2, 4, 8), (True,), ("e",), 32),
    ]  # fmt: skip
    assert [each.seq_lens_q for each in engine.decode_shapes(torch.float16, 16, 64, 1, 1, 1)] == [(1,)]
    prepared = []
    monkeypatch.setattr(engine, "prepare", lambda shapes, device: prepared.append((shapes, device)))
    monkeypatch.setenv(BACKEND_VARIABLE, "emulator")
    make_impl(engine, kv_cache_dtype="fp8")
    assert [shapes.seq_lens_q for shapes, _ in prepared] == [(1,), (2, 4)]
    assert {(shapes.dtype, shapes.page_size, str(device)) for shapes, device in prepared} == {
        (torch.float8_e4m3fn, 32, "cpu")
    }


def test_the_backends_claims(engine):
    backend, builder = engine.BlackwellMLABackend, engine.MetadataBuilder
    assert backend.get_name() == "BLACKWELL_MLA" and backend.get_supported_head_sizes() == [576]
    assert backend.get_supported_kernel_block_sizes() == [16, 32, 64, 128]
    assert backend.get_impl_cls() is engine.BlackwellMLAImpl and backend.get_builder_cls() is builder
    assert builder._cudagraph_support is fake_vllm.AttentionCGSupport.UNIFORM_BATCH
    assert builder.query_len_support is fake_vllm.QueryLenSupport.VARLEN
    assert builder(None, [], None, None).supports_dcp_with_varlen
    capability = types.SimpleNamespace
    allowed = [backend.supports_compute_capability(capability(major=10, minor=minor)) for minor in (0, 1, 3)]
    assert allowed == [True, False, True]
    assert not hasattr(backend, "supports_batch_invariance"), "the base class says no"


@pytest.mark.parametrize(
    ("cache", "dtype", "reason"),
    [
        ("auto", torch.float16, None), ("fp8", torch.bfloat16, None), (None, torch.bfloat16, None),
        ("fp8", torch.float16, "needs a bfloat16 model"), ("float16", torch.bfloat16, "needs a model of that dtype"),
    ],
)  # fmt: skip
def test_combinations(engine, cache, dtype, reason):
    found = engine.BlackwellMLABackend.supports_combination(576, dtype, cache, 64, True, False, False, False, None)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"alibi_slopes": [1.0]}, "alibi_slopes"), ({"logits_soft_cap": 30.0}, "logits_soft_cap"),
        ({"sliding_window": 128}, "sliding_window"), ({"sinks": torch.zeros(3)}, "sinks"),
        ({"indexer": object()}, "indexer"), ({"attn_type": "encoder_only"}, "attn_type='encoder_only'"),
        ({"kv_lora_rank": 256}, "kv_lora_rank=256"), ({"qk_rope_head_dim": 0}, "qk_rope_head_dim=0"),
    ],
)  # fmt: skip
def test_refused_by_name(engine, changes, name):
    with pytest.raises(NotImplementedError, match=f"^{name}"):
        make_impl(engine, **changes)


def test_the_entry_point_may_run_twice(monkeypatch):
    for name, module in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(fake_vllm, "REGISTERED", {})
    engines.register_vllm()
    assert fake_vllm.REGISTERED == {"BLACKWELL_MLA": "wrappers.engines.vllm.BlackwellMLABackend"}
    registry = sys.modules["vllm.v1.attention.backends.registry"]
    monkeypatch.setattr(registry, "AttentionBackendEnum", types.SimpleNamespace(__members__={"BLACKWELL_MLA": None}))
    fake_vllm.REGISTERED.clear()
    engines.register_vllm()
    assert not fake_vllm.REGISTERED


def test_the_variable_names_a_backend(monkeypatch):
    monkeypatch.setenv(BACKEND_VARIABLE, "gpu")
    with pytest.raises(ValueError, match=r"^\$BLACKWELL_MLA_BACKEND: backend='gpu': must be one of"):
        engine_backend()
