"""merge_partials: against one softmax over all keys, and its own wrong inputs."""

from __future__ import annotations

import math

import pytest
import torch

from wrappers.compat import use_backend
from wrappers.compat.flashmla import flash_mla_with_kvcache, get_mla_metadata
from wrappers.partials import merge_partials
from wrappers.testing import make_problem


def attend(scores: torch.Tensor, values: torch.Tensor, base: str) -> tuple[torch.Tensor, torch.Tensor]:
    lse = scores.logsumexp(-1)
    out = torch.exp(scores - lse[..., None]).nan_to_num(0.0) @ values
    return out, lse if base == "e" else lse / math.log(2.0)


@pytest.mark.parametrize("base", ["e", "2"])
def test_merged_parts_are_the_whole(base):
    generator = torch.Generator().manual_seed(0)
    scores, values = 5 * torch.randn(2, 3, 60, generator=generator), torch.randn(60, 512, generator=generator)
    scores[0, 1, :20] = -math.inf
    pieces = [slice(0, 20), slice(20, 21), slice(21, 60)]
    parts = [attend(scores[..., piece], values[piece], base) for piece in pieces]
    expected = attend(scores, values, base)
    for outs, lses in (zip(*parts), map(torch.stack, zip(*parts))):
        out, lse = merge_partials(outs, lses, lse_base=base)
        torch.testing.assert_close(out, expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(lse, expected[1], rtol=1e-6, atol=1e-6)
    wrong = merge_partials(*zip(*parts), lse_base="2" if base == "e" else "e")
    assert (wrong[0] - expected[0]).abs().max() > 1e-2 and (wrong[1] - expected[1]).abs().max() > 1e-2


def test_a_row_that_no_part_sees_is_zero_and_minus_infinity():
    lses = torch.tensor([[-math.inf, 1.0], [-math.inf, -math.inf]])
    out, lse = merge_partials(torch.ones(2, 2, 512), lses)
    assert lse.tolist() == [-math.inf, 1.0] and not out[0].any() and (out[1] == 1).all()


@pytest.mark.parametrize("mark", [-math.inf, math.inf], ids=str)
@pytest.mark.parametrize("junk", [0.0, math.nan, math.inf], ids=str)
@pytest.mark.parametrize("base", ["e", "2"])
def test_an_empty_part_counts_for_nothing(mark, junk, base):
    """FlashMLA's mark of a row without keys is +inf; others leave NaN in such a row's output."""
    generator = torch.Generator().manual_seed(0)
    outs, lses = torch.randn(3, 4, 512, generator=generator), torch.randn(3, 4, generator=generator)
    expected = merge_partials(outs[[0, 2]], lses[[0, 2]], lse_base=base)
    outs[1], lses[1] = junk, mark
    assert all(torch.equal(*pair) for pair in zip(merge_partials(outs, lses, lse_base=base), expected))
    outs[:, 1], lses[:, 1] = junk, torch.tensor([mark, -mark, mark])
    out, lse = merge_partials(outs, lses, lse_base=base)
    assert not out[1].any() and lse[1] == -math.inf and torch.equal(out[[0, 2, 3]], expected[0][[0, 2, 3]])
    out, lse = merge_partials(outs[1:2], lses[1:2], lse_base=base)
    assert not out.any() and (lse == -math.inf).all()


@pytest.mark.parametrize("where", ["lse", "out"])
def test_what_is_not_a_number_shows(where):
    """In a part that has keys, even one whose weight is 0."""
    outs, lses = torch.ones(2, 3, 512), torch.tensor([[0.0, 0.0, 0.0], [0.0, -1000.0, -1000.0]])
    if where == "lse":
        lses[0, 0] = lses[1, 1] = math.nan
    else:
        outs[0, 0] = outs[1, 1] = math.nan
    out, lse = merge_partials(outs, lses)
    assert out[:2].isnan().all() and (out[2] == 1).all()
    assert torch.equal(lse.isnan(), torch.tensor([True, True, False]) & (where == "lse"))


@pytest.mark.parametrize("backend", ["torch", "emulator"])
def test_parts_of_flashmla(backend):
    """The adapter's log-sum-exps, +inf in a request without keys, as they come."""
    parts = []
    for lengths in ((40, 0), (0, 0)):
        problem = make_problem(2, 3, 2, lengths, page_size=32, dtype=torch.float16, seed=lengths[0])
        with use_backend(backend):
            cache = problem.kv_cache.unsqueeze(2)
            out, lse = flash_mla_with_kvcache(problem.query, cache, *problem.tensors[2:], 512, get_mla_metadata()[0])
        parts.append((out.transpose(1, 2), lse))
    assert (parts[0][1][1] == math.inf).all() and (parts[1][1] == math.inf).all()
    out, lse = merge_partials(*zip(*parts))
    assert torch.equal(out[0], parts[0][0][0]) and torch.equal(lse[0], parts[0][1][0])
    assert not out[1].any() and (lse[1] == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_single_part_comes_back_bit_for_bit(dtype):
    out, lse = torch.randn(3, 512).to(dtype), torch.randn(3)
    merged = merge_partials([out], [lse])
    assert torch.equal(merged[0], out) and torch.equal(merged[1], lse) and merged[0].dtype == dtype


OUT, LSE = torch.zeros(3, 512), torch.zeros(3)
BAD = {
    "outs_a_number": ((3.0, [LSE]), {}, TypeError, "outs is a float: must be a tensor or a sequence of tensors"),
    "outs_of_int": (([OUT.int()], [LSE]), {}, TypeError, r"outs\[0\] has dtype torch.int32"),
    "no_parts": (([], []), {}, ValueError, "outs has no parts"),
    "parts_of_two_shapes": (([OUT, OUT[:2]], [LSE, LSE]), {}, ValueError, r"outs\[1\] is \[2, 512\].* as outs\[0\]"),
    "parts_of_two_dtypes": (([OUT, OUT.half()], [LSE, LSE]), {}, ValueError, r"outs\[1\] .* torch.float16: must be as"),
    "lses_of_fp64": (([OUT], [LSE.double()]), {}, TypeError, r"lses\[0\] has dtype torch.float64"),
    "fewer_lses": (([OUT, OUT], [LSE]), {}, ValueError, r"lses have shape \[1, 3\], parts first: must be \[2, 3\]"),
    "another_device": (([OUT], [LSE.to("meta")]), {}, ValueError, "lses is on meta"),
    "base": (([OUT], [LSE]), {"lse_base": "10"}, ValueError, "lse_base='10': must be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    arguments, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        merge_partials(*arguments, **options)
