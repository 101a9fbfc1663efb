"""`isolate_drafts`: a draft's cache entry that is not finite reaches only the rows that see it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mla import operands
from mla.config import MlaDecodeConfig
from tests.wrappers.emulation import launch, run, same
from wrappers import kernel
from wrappers.call import DecodeCall
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, assert_matches, make_problem, shard

# The drafts of 4 tokens straddle two key tiles, fill the end of a whole one, lie in a ragged one, outnumber the keys.
KV_LENS = (130, 256, 70, 3)


def isolated(num_heads: int, seq_len_q: int, kv_lens=KV_LENS, page_size=16, **options) -> MlaProblem:
    problem = make_problem(len(kv_lens), num_heads, seq_len_q, kv_lens, page_size=page_size, **options)
    return replace(problem, isolate_drafts=True)


def poisoned(problem: MlaProblem, draft: int, value: float) -> tuple[MlaProblem, torch.Tensor]:
    """The problem with `value` in two latent dimensions, one of each CTA's, of query token `draft`'s key in every
    request that has it; and which rows see that key, bool [tokens, heads] as the query has them."""
    cache, page_size = problem.kv_cache.clone(), problem.kv_cache.shape[1]
    sees = torch.zeros(problem.query.shape[:-1], dtype=torch.bool)
    for request, (tokens, num_keys, seen) in enumerate(problem.requests()):
        key = num_keys - len(seen) + draft
        if draft < len(seen) and key >= 0:
            cache[problem.block_tables[request, key // page_size], key % page_size, [5, 200]] = value
            for token, keys in enumerate(seen):
                sees[tokens][token] = key in keys
    return replace(problem, kv_cache=cache), sees


def lens_of(problem: MlaProblem, lens: tuple[int, ...]) -> MlaProblem:
    """Every request's tokens see so many keys, as far as it has them."""
    bounded = torch.tensor(lens, dtype=torch.int32).minimum(problem.seq_lens[:, None])
    return replace(problem, local_visible_lens=bounded)


def is_isolated(problem: MlaProblem, draft: int, value: float, result, clean) -> bool:
    """Whether a bad draft's rows are NaN, with NaN as log-sum-exp, and all others what they are without it."""
    sees = poisoned(problem, draft, value)[1]
    assert 0 < sees.sum() < sees.numel()
    out, lse = result
    kept = same((out[~sees], lse[~sees]), (clean[0][~sees], clean[1][~sees]))
    return kept and bool(out[sees].isnan().all() and lse[sees].isnan().all())


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


CASES = {
    "causal": (lambda: isolated(32, 4), (1, 2, 3)),  # tokens 0 and 1 in one CTA of the pair, 2 and 3 in the other
    "fp8": (lambda: isolated(32, 4, dtype=TORCH_DTYPES["fp8"]), (1, 3)),
    "two row tiles": (lambda: isolated(40, 4, dtype=TORCH_DTYPES["fp16"]), (3,)),
    "ragged tree": (lambda: isolated(16, 8, (200, 64, 130, 5), query_lens=(8, 3, 7, 2), tree=True), (2,)),
    # A key that only the first token's window holds, and one that no window reaches beyond a tile's start.
    "window": (lambda: isolated(32, 4, (400, 261), window_left=130), (-130, -129, 3)),
    "visible lengths": (
        lambda: lens_of(isolated(32, 4, (140, 64), 64, is_causal=False), (140, 90, 129, 2)),
        (0, -20, 3),
    ),
    "fp8 tree over three tiles": (
        lambda: isolated(1, 200, (330,), tree=True, dtype=TORCH_DTYPES["fp8"]),
        (7, 100, 199),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_draft_stays_with_those_that_see_it(name, backend):
    make, drafts = CASES[name]
    problem = make()
    clean = run(problem, backend)
    assert_matches(problem, *clean)
    for draft in drafts:
        result = run(poisoned(problem, draft, math.nan)[0], backend)
        assert is_isolated(problem, draft, math.nan, result, clean), f"draft {draft}"


def test_a_rank_of_context_parallelism(backend):
    """Rank 1 of 2 holds every other key, the last one of each request among them: only token 3 sees that."""
    problem = isolated(32, 4, (130, 256))
    part = replace(shard(problem, 2, 1, 1), isolate_drafts=True)
    clean = run(part, backend)
    assert_matches(part, *clean)
    cache = part.kv_cache.clone()
    cache[part.block_tables[0, 64 // 16], 64 % 16, 5] = math.nan
    out, lse = run(replace(part, kv_cache=cache), backend)
    assert out[0, 3].isnan().all() and lse[0, 3].isnan().all()
    kept = torch.ones(2, 4, dtype=torch.bool)
    kept[0, 3] = False
    assert same((out[kept], lse[kept]), (clean[0][kept], clean[1][kept]))


@pytest.mark.parametrize("num_heads, dtype", [(32, "bf16"), (40, "fp16")])
def test_an_infinite_draft(num_heads, dtype, backend):
    """A row that sees it is NaN; but where the score is -inf, the key's probability is 0 and its values do not count, as
    long as not all rows of the row tile see it (else they are not cleared, and 0 * inf is NaN, as in the reference).
    """
    problem = isolated(num_heads, 4, (130,), dtype=TORCH_DTYPES[dtype])
    clean = run(problem, backend)
    bad, sees = poisoned(problem, 2, math.inf)
    out, lse = run(bad, backend)
    assert same((out[~sees], lse[~sees]), (clean[0][~sees], clean[1][~sees]))
    lowest = sees & (problem.query[..., 5] < 0) & (problem.query[..., 200] < 0)
    highest = sees & ~lowest
    lowest &= (torch.arange(4 * num_heads) < 128).view(1, 4, num_heads)  # all rows of the next row tile see it
    assert lowest.any() and highest.any()
    assert out[highest].isnan().all() and lse[highest].isnan().all()
    values, (expected, expected_lse) = [5, 200], bad.reference()
    others = [dim for dim in range(512) if dim not in values]
    torch.testing.assert_close(out[lowest][:, others].double(), expected[lowest][:, others], rtol=0.02, atol=0.02)
    torch.testing.assert_close(lse[lowest].double(), expected_lse[lowest], rtol=1e-4, atol=1e-4)
    assert expected[lowest][:, values].isnan().all() and out[lowest][:, values].isfinite().all()


@pytest.mark.parametrize(
    "mutant, draft", [("drafts-not-cleared", 3), ("drafts-last-tile", 1), ("drafts-off-by-one", 1)]
)
def test_mutants_fail(mutant, draft):
    problem = isolated(32, 4)
    clean = launch(problem)
    result = launch(poisoned(problem, draft, math.nan)[0], mutant)
    assert not is_isolated(problem, draft, math.nan, result, clean)


def test_only_calls_with_hidden_keys_take_the_kernel():
    def config(problem: MlaProblem) -> MlaDecodeConfig:
        call: DecodeCall = problem.decode_call()
        return kernel.decode_config(call, "sm_100a")

    assert config(isolated(2, 4)).isolate_drafts and config(isolated(2, 4)).is_wide
    for same_for_all in (isolated(2, 1), isolated(2, 4, is_causal=False)):
        assert config(same_for_all) == config(replace(same_for_all, isolate_drafts=False))
    assert config(isolated(2, 1, tree=True)).isolate_drafts, "one token need not see its own key"
    with pytest.raises(ValueError, match="path='narrow': must be 'auto' or 'wide' with isolate_drafts"):
        replace(config(isolated(2, 4)), path="narrow")


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_not_finite(dtype):
    """Every pattern of every element of a word, beside neighbours that are finite."""
    bits = TORCH_DTYPES[dtype].itemsize * 8
    patterns = torch.arange(1 << bits, dtype=torch.int32)
    finite = patterns.to(torch.uint8 if bits == 8 else torch.uint16).view(TORCH_DTYPES[dtype]).float().isfinite()
    assert not finite.all()
    largest = int(patterns[finite].max())
    for place in range(0, 32, bits):
        for neighbour in (0, largest, int(patterns[~finite].min()) - 1):
            word = sum(neighbour << other for other in range(0, 32, bits) if other != place)
            for pattern, is_finite in zip(patterns.tolist(), finite.tolist()):
                assert (operands.not_finite(word | pattern << place, dtype) == 0) == is_finite
