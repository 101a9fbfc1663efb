"""merge_partials: against one softmax over all keys, and its own wrong inputs."""

from __future__ import annotations

import math

import pytest
import torch

from wrappers.partials import merge_partials


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
