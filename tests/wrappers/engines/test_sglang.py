"""`_run_decode_kernel` and the CPU backend called as SGLang 0.5.23 does, from its sources: cache [pages, 1, page, 576],
tables of a width that is padded with -1, lengths of either integer type. No engine is installed here."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from tests.wrappers.engines import fake_sglang
from wrappers import engines
from wrappers.call import KeyShard
from wrappers.engines import sglang as engine
from wrappers.engines.settings import BACKEND_VARIABLE
from wrappers.testing import assert_matches, make_problem, shard

PAGE_SIZE = 32
LAYER = types.SimpleNamespace(k_scale_float=2.0, scaling=192**-0.5, layer_id=0, tp_q_head_num=3, qk_head_dim=576)
SCALE = LAYER.k_scale_float * LAYER.scaling


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    parts = {name.rsplit(".", count)[0] for name in fake_sglang.NAMES for count in range(1, 6)}
    for name in parts:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, module in fake_sglang.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv(BACKEND_VARIABLE, "torch")
    engine.gpu_backend.cache_clear()
    engine.cpu_backend.cache_clear()
    yield
    engine.gpu_backend.cache_clear()
    engine.cpu_backend.cache_clear()


def runner(**changes):
    config = types.SimpleNamespace(kv_lora_rank=512, qk_rope_head_dim=64)
    given = {
        "device": "cpu", "use_mla_backend": True, "model_config": config, "page_size": PAGE_SIZE,
        "dtype": torch.bfloat16, "kv_cache_dtype": torch.bfloat16, **changes,
    }  # fmt: skip
    return types.SimpleNamespace(**given)


def decode(problem, **changes):
    backend = engine.gpu_backend()(runner(kv_cache_dtype=problem.query.dtype))
    table = torch.full((len(problem.seq_lens), 8), -1, dtype=torch.int32)
    for row, (ids, length) in enumerate(zip(problem.block_tables, problem.seq_lens.tolist(), strict=True)):
        pages = -(-length // PAGE_SIZE)
        table[row, :pages] = ids[:pages]
    given = {
        "query": problem.query, "kv_cache": problem.kv_cache.unsqueeze(1), "block_tables": table,
        "seq_lens": problem.seq_lens, "max_seq_len": 70, "layer": LAYER, **changes,
    }  # fmt: skip
    return backend._run_decode_kernel(**given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("tokens", [1, 4])
def test_decode_and_verification(dtype, tokens):
    problem = make_problem(3, 3, tokens, [5, 1, 70], page_size=PAGE_SIZE, dtype=dtype, softmax_scale=SCALE)
    out = decode(problem, seq_lens=problem.seq_lens.long())
    assert out.shape == (3, tokens, 3, 512) and out.is_contiguous(), "the engine views it as [tokens, heads * 512]"
    assert_matches(problem, out)
    with pytest.raises(AssertionError):
        assert_matches(problem, decode(problem, seq_lens=problem.seq_lens - 1))


def test_ranks_give_the_base_that_the_engine_expects_of_an_unknown_name():
    problem = make_problem(3, 3, 4, [5, 0, 70], page_size=PAGE_SIZE, softmax_scale=SCALE)
    for rank in range(2):
        own, local = shard(problem, 2, rank, 1, page_size=PAGE_SIZE), KeyShard(2, rank, 1).local_keys(problem.seq_lens)
        given = {
            "block_tables": own.block_tables,
            "seq_lens": local,
            "cp_world": 2,
            "cp_rank": rank,
            "return_lse": True,
        }
        out, lse = decode(own, causal_seqs=problem.seq_lens, **given)
        assert lse.shape == (3, 4, 3)
        assert_matches(own, out, lse * torch.log(torch.tensor(2.0)))
        with pytest.raises(AssertionError):
            assert_matches(own, out, lse)
        with pytest.raises(ValueError, match="^causal_seqs is None: cp_world=2 needs it"):
            decode(own, **given)


def test_through_the_kernel(monkeypatch):
    monkeypatch.setattr(engine, "prepare", lambda shapes, device: None)
    monkeypatch.setenv(BACKEND_VARIABLE, "emulator")
    problem = make_problem(3, 3, 2, [5, 1, 70], page_size=PAGE_SIZE, dtype=torch.float8_e4m3fn, softmax_scale=SCALE)
    assert_matches(problem, decode(problem))


def test_kernels_that_a_server_compiles_ahead(monkeypatch):
    prepared = []
    monkeypatch.setattr(engine, "prepare", lambda shapes, device: prepared.append(shapes))
    monkeypatch.setenv(BACKEND_VARIABLE, "emulator")
    engine.gpu_backend()(runner())
    assert [(each.seq_lens_q, each.num_heads, each.lse_bases) for each in prepared] == [((1, 4), 3, (None,))]


def test_the_cpu_backend():
    """Slots instead of pages: the table of pages is every `page_size`-th slot of a request."""
    problem = make_problem(3, 3, 1, [5, 33, 70], page_size=PAGE_SIZE, softmax_scale=LAYER.scaling, hostile=False)
    slots = torch.zeros(4, 96, dtype=torch.int64)
    for row, ids in enumerate(problem.block_tables):
        within = ids[:3].clamp(min=0).long() * PAGE_SIZE
        slots[row + 1] = (within[:, None] + torch.arange(PAGE_SIZE)).flatten()
    pool = fake_sglang.Pool(problem.kv_cache.clone())
    newest = torch.stack([slots[row + 1, length - 1] for row, length in enumerate(problem.seq_lens.tolist())])
    keys = pool.slots[newest].clone()
    pool.slots[newest] = torch.nan
    backend = engine.create_backend(
        runner(token_to_kv_pool=pool, req_to_token_pool=types.SimpleNamespace(req_to_token=slots))
    )
    batch = types.SimpleNamespace(
        req_pool_indices=torch.tensor([1, 2, 3]), seq_lens=problem.seq_lens.long(), out_cache_loc=newest
    )
    out = backend.forward_decode(problem.query.reshape(3, -1), keys, keys[..., :512], LAYER, batch)
    assert out.shape == (3, 3 * 512)
    assert_matches(problem, out.view(3, 1, 3, 512))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_mla_backend": False}, "is for MLA models"), ({"page_size": 1}, "^--page-size 1: "),
        ({"kv_cache_dtype": torch.float16}, "^--kv-cache-dtype torch.float16: "),
        ({"dtype": torch.float16, "kv_cache_dtype": torch.float8_e4m3fn}, "^--dtype torch.float16: "),
        ({"model_config": types.SimpleNamespace(kv_lora_rank=256, qk_rope_head_dim=64)}, "^kv_lora_rank=256: "),
    ],
)  # fmt: skip
def test_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        engine.create_backend(runner(**changes))


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_entry_point_may_run_twice(monkeypatch, has_gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    for values in (fake_sglang.CHOICES, fake_sglang.ABSORB):
        del values[1:]
    for _ in range(2):
        engines.register_sglang()
    assert fake_sglang.CHOICES == ["trtllm_mla", "blackwell_mla"]
    assert fake_sglang.BACKENDS["blackwell_mla"] is engine.create_backend
    handler = fake_sglang.HANDLERS["blackwell_mla"]
    if has_gpu:
        assert handler is fake_sglang.HANDLERS["trtllm_mla"] and fake_sglang.ABSORB[1:] == ["blackwell_mla"]
    else:
        assert handler(None, None) == "absorbed" and not fake_sglang.ABSORB[1:]
