"""The torch backend: exact masks, hostile inputs, memory, and mutants of it that the checks must reject."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.wrappers.probe import visible_mask
from wrappers import fallback
from wrappers.decode import mla_decode
from wrappers.partials import merge_partials
from wrappers.testing import assert_matches, compare, make_problem, shard


def decode(problem, **options):
    return mla_decode(*problem.tensors, **problem.options, return_lse=True, backend="torch", **options)


@pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs")
@pytest.mark.parametrize("seq_len_q, kv_len", [(1, 1), (2, 4), (8, 64), (3, 500), (4, 2), (8, 1), (5, 4)])
def test_causal_mask_is_exact(seq_len_q, kv_len):
    assert torch.equal(visible_mask(seq_len_q, kv_len), causal_lower_right(seq_len_q, kv_len)._materialize())


def test_the_mask_of_two_tokens_and_four_keys():
    assert visible_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize("seq_len_q, kv_len", [(2, 4), (4, 2)])
def test_dense_sees_every_key(seq_len_q, kv_len):
    assert visible_mask(seq_len_q, kv_len, is_causal=False).all()


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize(
    "num_heads, seq_len_q, page_size, kv_len",
    [
        (1, 1, 16, [1, 16, 17]),
        (3, 2, 32, [0, 1, 63]),
        (16, 8, 64, [5, 8, 129]),
        (5, 4, 128, [3, 0, 200]),
        (2, 3, 64, [fallback.CHUNK_KEYS, fallback.CHUNK_KEYS + 1, 2 * fallback.CHUNK_KEYS + 2]),
    ],
)
def test_hostile_problems(num_heads, seq_len_q, page_size, kv_len, dtype, is_causal):
    problem = make_problem(
        3,
        num_heads,
        seq_len_q,
        kv_len,
        page_size=page_size,
        dtype=dtype,
        is_causal=is_causal,
        output_scale=-1.5,
    )
    assert_matches(problem, *decode(problem))


@pytest.mark.parametrize("cache_rank", [3, 4])
def test_strided_views(cache_rank):
    problem = make_problem(2, 3, 2, [40, 7], page_size=16, strided=True, cache_rank=cache_rank)
    assert problem.query.stride(1) != 3 * problem.query.stride(2)
    wide = torch.full((2, 3, 4, 600), 7.0, dtype=torch.bfloat16)
    out, lse = decode(problem, out=wide[:, :2, :3, :512])
    assert_matches(problem, out, lse)
    assert (wide[:, 2:] == 7).all() and (wide[..., 512:] == 7).all() and (wide[:, :, 3:] == 7).all()


def test_the_boundary_of_a_chunk_may_hide_whole_chunks_from_a_row(monkeypatch):
    """With chunks of one page, the first tokens see none of the later chunks."""
    monkeypatch.setattr(fallback, "CHUNK_KEYS", 16)
    problem = make_problem(1, 2, 40, 50, page_size=16)
    assert_matches(problem, *decode(problem))


class AllocationMeter(TorchDispatchMode):
    """Records the largest tensor, in elements, that any operation makes."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                owned = leaf.untyped_storage().nbytes() // leaf.element_size()
                if not any(leaf.untyped_storage().data_ptr() == a.untyped_storage().data_ptr()
                           for a in tree_leaves(args) if isinstance(a, torch.Tensor)):  # fmt: skip
                    self.largest = max(self.largest, owned)
        return result


@pytest.mark.parametrize("seq_len_q", [1, 64])
def test_memory_does_not_grow_with_the_key_length(seq_len_q):
    """No gathered copy of all keys, no score matrix over all keys, no (tokens x keys) mask."""
    largest = []
    for chunks in (1, 4, 16):
        problem = make_problem(1, 1, seq_len_q, chunks * fallback.CHUNK_KEYS, hostile=False)
        with AllocationMeter() as meter:
            decode(problem)
        largest.append(meter.largest)
    assert largest[0] == largest[1] == largest[2]
    assert largest[0] >= fallback.CHUNK_KEYS * 576


def test_only_the_requests_own_pages_are_gathered(monkeypatch):
    problem = make_problem(2, 1, 1, [20, 70], page_size=16)
    read = []
    gather = fallback.gather

    def recording(kv_cache, page_ids, start, stop):
        read.append(page_ids[start // 16 : -(-stop // 16)].tolist())
        return gather(kv_cache, page_ids, start, stop)

    monkeypatch.setattr(fallback, "gather", recording)
    decode(problem)
    assert read == [problem.block_tables[0, :2].tolist(), problem.block_tables[1, :5].tolist()]


def top_left(num_tokens, num_heads, num_keys, is_causal, device):
    token = torch.arange(num_tokens * num_heads) // num_heads
    return (token + 1).clamp(max=num_keys)


def no_mask(num_tokens, num_heads, num_keys, is_causal, device):
    return torch.full((num_tokens * num_heads,), num_keys)


def one_too_many(num_tokens, num_heads, num_keys, is_causal, device):
    return (ROW_BOUNDS(num_tokens, num_heads, num_keys, is_causal, device) + 1).clamp(max=num_keys)


def one_too_few(num_tokens, num_heads, num_keys, is_causal, device):
    return (ROW_BOUNDS(num_tokens, num_heads, num_keys, is_causal, device) - 1).clamp(min=0)


def head_major(num_tokens, num_heads, num_keys, is_causal, device):
    token = torch.arange(num_tokens * num_heads) % num_tokens
    return (num_keys - (num_tokens - 1) + token).clamp(0, num_keys)


ROW_BOUNDS = fallback.row_bounds


@pytest.mark.parametrize("mutant", [top_left, no_mask, one_too_many, one_too_few, head_major])
def test_a_wrong_mask_is_rejected(mutant, monkeypatch):
    problem = make_problem(2, 4, 4, [300, 77])
    assert_matches(problem, *decode(problem))
    monkeypatch.setattr(fallback, "row_bounds", mutant)
    faults = compare(problem, *decode(problem)).faults
    assert any(fault.startswith("out") for fault in faults) and any(fault.startswith("lse") for fault in faults)


def last_key_zeroed(kv_cache, page_ids, start, stop):
    keys = GATHER(kv_cache, page_ids, start, stop).clone()
    keys[-1] = 0
    return keys


def pages_sorted(kv_cache, page_ids, start, stop):
    used = page_ids[start // kv_cache.shape[1] : -(-stop // kv_cache.shape[1])].sort().values
    return GATHER(kv_cache, used, 0, stop - start)


GATHER = fallback.gather


@pytest.mark.parametrize("mutant", [last_key_zeroed, pages_sorted])
def test_wrong_keys_are_rejected(mutant, monkeypatch):
    problem = make_problem(2, 4, 2, [300, 77], page_size=16)
    monkeypatch.setattr(fallback, "gather", mutant)
    assert compare(problem, *decode(problem)).faults


@pytest.mark.parametrize(
    "change",
    [
        {"softmax_scale": 1.01 * 576**-0.5},
        {"softmax_scale": 576**-0.5 / math.log(2.0)},
        {"output_scale": 1.01},
        {"lse_base": "2"},
        {"is_causal": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_option_is_rejected(change):
    problem = make_problem(2, 4, 2, [300, 77])
    options = {**problem.options, **change}
    result = mla_decode(*problem.tensors, **options, return_lse=True, backend="torch")
    assert compare(problem, *result).faults


def test_large_scores_do_not_overflow():
    problem = make_problem(1, 2, 2, 3 * fallback.CHUNK_KEYS, softmax_scale=20.0, dtype=torch.float16)
    out, lse = decode(problem)
    assert lse.max() > 1000
    assert_matches(problem, out, lse)


@pytest.mark.parametrize("softmax_scale", [0.0, -(576**-0.5)])
def test_any_finite_scale_hides_masked_keys(softmax_scale):
    problem = make_problem(1, 2, 5, [30], softmax_scale=softmax_scale)
    assert_matches(problem, *decode(problem))


def poison(problem, where: str, value: float):
    """The problem with a value that is not finite in every request's query or key 0, or as a scale on the device."""
    if where == "query":
        problem.query[:, :, 0, 5] = value
    elif "key" in where:
        for request in problem.seq_lens.nonzero().flatten():
            problem.kv_cache[problem.block_tables[request, 0], 0, 560 if "rope" in where else 5] = value
    else:
        return replace(problem, **{where: torch.tensor([value])})
    return problem


@pytest.mark.parametrize("backend", ["torch", "emulator", pytest.param("cute", marks=pytest.mark.device)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("where", ["query", "key", "rope of a key", "softmax_scale", "output_scale"])
def test_what_is_not_finite_shows(where, value, backend):
    """NaN where the reference has it, and 0 in no row that sees a key, but where all scores of a row are -inf."""
    problem = poison(make_problem(4, 16, 4, (130, 2, 0, 1), seed=3), where, value)
    expected, expected_lse = problem.reference()
    expected_lse[expected_lse == math.inf] = math.nan  # of a score of +inf, relative to which all others are NaN
    expected[problem.active_rows() & (expected_lse == -math.inf)] = 0.0
    placed = problem.to("cuda") if backend == "cute" else problem
    out, lse = mla_decode(*placed.tensors, **placed.options, return_lse=True, backend=backend)
    assert (expected.isnan() | expected.isinf()).any() and (expected == 0).any()
    if where == "output_scale":  # times Inf, the sign of an element near 0 depends on rounding
        out, expected = out.abs(), expected.abs()
    torch.testing.assert_close(out.cpu().double(), expected, rtol=0.02, atol=0.02, equal_nan=True)
    torch.testing.assert_close(lse.cpu().double(), expected_lse, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("feature", [{"tree": True}, {"query_lens": (5, 0, 2, 1)}, {"is_causal": False}], ids=str)
def test_rows_are_zero_only_if_they_see_no_key(feature):
    """With a NaN scale, every other row is NaN; in whole chunks of hidden keys too."""
    problem = make_problem(4, 3, 5, [66, 3, 2, 0], page_size=16, softmax_scale=torch.tensor([math.nan]), **feature)
    out, lse = decode(problem)
    active = problem.active_rows()
    assert torch.isnan(out[active]).all() and torch.isnan(lse[active]).all()
    assert not out[~active].any() and (lse[~active] == -math.inf).all()


def test_a_shard_without_visible_keys_is_zero_whatever_the_scale():
    part = shard(make_problem(2, 3, 4, [6, 0], page_size=16, output_scale=torch.tensor([math.nan])), 4, 2, 2)
    out, _ = decode(part)
    assert torch.equal(out.isnan().all(-1), part.active_rows()) and 0 < part.active_rows().sum() < out[..., 0].numel()
    assert not out[~part.active_rows()].any()


def chain(seq_len_q: int) -> torch.Tensor:
    """The causal mask as a tree."""
    return torch.ones(seq_len_q, seq_len_q, dtype=torch.bool).tril()


@pytest.mark.parametrize("backend", ["torch", "emulator", pytest.param("cute", marks=pytest.mark.device)])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize(
    "num_heads, seq_len_q, page_size, isolate_drafts",
    [(16, 4, 64, False), (16, 8, 64, False), (32, 4, 16, True)],
    ids=["narrow", "wide", "isolated"],
)
@pytest.mark.parametrize("is_tree", [False, True])
def test_a_bad_draft(is_tree, num_heads, seq_len_q, page_size, isolate_drafts, value, backend):
    """A key that is not finite, of the last query token, which alone sees it: dimension 5, or the rotary part."""
    last = seq_len_q - 1

    def run(dimension):
        problem = make_problem(2, num_heads, seq_len_q, (130, 70), page_size=page_size)
        problem = replace(problem, isolate_drafts=isolate_drafts)
        if is_tree:
            problem = replace(problem, tree_mask=chain(seq_len_q).expand(2, -1, -1))
        if dimension is not None:
            problem.kv_cache[problem.block_tables[0, 129 // page_size], 129 % page_size, dimension] = value
        placed = problem.to("cuda") if backend == "cute" else problem
        out, lse = mla_decode(*placed.tensors, **placed.options, return_lse=True, backend=backend)
        return out.cpu(), lse.cpu()

    clean, rotary, latent = run(None), run(560), run(5)
    others = [index for index in range(512) if index != 5]
    for out, lse in (rotary, latent):
        assert out[0, last].isnan().any(), "its own token shows it"
        assert torch.equal(out[1], clean[0][1]) and torch.equal(lse[1], clean[1][1]), "other requests"
        assert torch.equal(lse[0, :last], clean[1][0, :last]), "log-sum-exps of the tokens before it"
        assert torch.equal(out[0, :last, :, others], clean[0][0, :last, :, others]), "their other dimensions"
    assert torch.equal(rotary[0][0, :last], clean[0][0, :last])
    if backend == "torch" or isolate_drafts:
        assert torch.equal(latent[0][0, :last], clean[0][0, :last])
    else:
        # The limit that mla_decode and docs/integration.md state: the token that sees a key of the bad one's tile has
        # NaN there; others may, depending on how the keys are split.
        spoiled = latent[0][0, :last, :, 5]
        assert spoiled[-1].isnan().all()
        assert (spoiled.isnan() | (spoiled == clean[0][0, :last, :, 5])).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_lower_the_precision(dtype):
    problem = make_problem(2, 4, 4, [300, 77], dtype=torch.float16)
    plain = decode(problem)
    with torch.autocast("cpu", dtype=dtype):
        cast = decode(problem)
        merged = merge_partials([plain[0], cast[0]], [plain[1], cast[1]])
    assert torch.equal(cast[0], plain[0]) and torch.equal(cast[1], plain[1])
    again = merge_partials([plain[0], cast[0]], [plain[1], cast[1]])
    assert torch.equal(merged[0], again[0]) and torch.equal(merged[1], again[1])


MODES = {
    "ragged": {"query_lens": (5, 0, 2, 1)},
    "tree": {"tree": True},
    "ragged tree": {"query_lens": (5, 0, 2, 1), "tree": True},
    "window": {"window_left": 9},
    "dense window": {"window_left": 40, "is_causal": False},
    "ragged window": {"query_lens": (5, 0, 2, 1), "window_left": 4},
    "visible lengths": {"visible_lens": True},
    "ragged visible lengths": {"query_lens": (5, 0, 2, 1), "visible_lens": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_modes(mode, dtype, monkeypatch):
    """With chunks of 32 keys, so that drafts straddle chunks."""
    monkeypatch.setattr(fallback, "CHUNK_KEYS", 32)
    problem = make_problem(4, 3, 5, [66, 20, 2, 0], page_size=16, dtype=dtype, **MODES[mode])
    assert_matches(problem, *decode(problem))


@pytest.mark.parametrize("world, interleave", [(2, 1), (3, 4), (4, 32)])
def test_context_parallelism(world, interleave):
    problem = make_problem(4, 3, 5, [66, 20, 2, 0], page_size=16)
    parts = []
    for rank in range(world):
        part = shard(problem, world, rank, interleave)
        parts.append(decode(part))
        assert_matches(part, *parts[-1])
    assert_matches(problem, *merge_partials(*zip(*parts)))


@pytest.mark.parametrize("window_left", [4, 30])
def test_windows_under_context_parallelism(window_left):
    """Counted among all ranks' keys."""
    problem = make_problem(4, 3, 5, [66, 20, 2, 0], page_size=16, window_left=window_left)
    parts = [decode(shard(problem, 3, rank, 4)) for rank in range(3)]
    assert_matches(problem, *merge_partials(*zip(*parts)))


def test_a_wrong_window_or_length_is_rejected():
    windowed = make_problem(2, 3, 5, [66, 30], page_size=16, window_left=9, hostile=False)
    for window_left in (8, 10):
        assert compare(windowed, *decode(replace(windowed, window_left=window_left))).faults
    problem = make_problem(2, 3, 5, [66, 30], page_size=16, hostile=False)
    lens = torch.tensor([[60, 3, 0, 5, 66], [9, 8, 7, 30, 20]]).int()
    with_lens = replace(problem, local_visible_lens=lens)
    assert_matches(with_lens, *decode(with_lens))
    for token in range(5):
        other = lens.clone()
        other[1, token] -= 1
        assert compare(with_lens, *decode(replace(with_lens, local_visible_lens=other))).faults


def test_a_wrong_tree_or_rank_is_rejected(monkeypatch):
    tree = make_problem(2, 3, 40, [66, 30], page_size=16, tree=True)
    chain = torch.ones(40, 40, dtype=torch.bool).tril().expand(2, -1, -1)
    assert compare(tree, *decode(replace(tree, tree_mask=chain))).faults
    part = shard(make_problem(2, 3, 5, [66, 30], page_size=16), 2, 0, 3)
    assert compare(part, *decode(replace(part, dcp_rank=1))).faults
    assert compare(part, *decode(replace(part, dcp_interleave=1))).faults
