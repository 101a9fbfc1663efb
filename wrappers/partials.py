"""Joining the parts of an attention result, as the ranks of decode context parallelism or the pieces of a cascade give
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mla.config import LSE_BASES
from wrappers.fallback import full_precision
from wrappers.validate import check_choice, check_device, check_tensor, shape_text

PARTIAL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def merge_partials(
    outs: torch.Tensor | Sequence[torch.Tensor],
    lses: torch.Tensor | Sequence[torch.Tensor],
    *,
    lse_base: str = "e",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result over all keys from results over disjoint parts of them.

    outs: W tensors [..., 512], or one [W, ..., 512], bfloat16, float16 or float32. lses: W tensors [...], or one
        [W, ...], float32: log-sum-exps to the base `lse_base`, -inf or, as FlashMLA has it, +inf where a part has no
        visible key; what it has in `outs` there, NaN for instance, does not count.

    Returns `(out [..., 512] in the parts' dtype, lse [...] float32)`, computed in float32, under autocast too, added in
    the order of the parts; 0 and -inf where no part has a visible key, NaN where a part that has one is NaN. What a
    single part has where it has a visible key comes back bit for bit. Only enqueues work, so it can be captured in a
    CUDA graph. Raises TypeError or ValueError naming the argument.
    """
    check_choice("lse_base", lse_base, LSE_BASES)
    outs, lses = checked_parts("outs", outs, PARTIAL_DTYPES), checked_parts("lses", lses, (torch.float32,))
    if outs.shape[:-1] != lses.shape:
        raise ValueError(
            f"lses have shape {shape_text(lses)}, parts first: must be {list(outs.shape[:-1])}, that of outs "
            f"{shape_text(outs)} without the last dimension"
        )
    check_device("lses", lses, outs)
    with full_precision(outs.device):
        return merged_parts(outs, lses, lse_base)


def merged_parts(outs: torch.Tensor, lses: torch.Tensor, lse_base: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`merge_partials` of checked arguments, parts first."""
    is_empty = torch.isinf(lses)
    lses = lses.masked_fill(is_empty, -math.inf)
    highest = lses.amax(dim=0)
    # -inf - -inf would be NaN where no part has a visible key.
    reference = torch.where(highest == -math.inf, 0.0, highest)
    exponents = lses - reference
    weights = torch.exp(exponents) if lse_base == "e" else torch.exp2(exponents)
    total = torch.zeros_like(reference)
    merged = torch.zeros(outs.shape[1:], dtype=torch.float32, device=outs.device)
    for weight, out, empty in zip(weights, outs, is_empty):
        total = total + weight
        # Not by its weight of 0 alone: 0 * NaN is NaN.
        merged = merged + (weight[..., None] * out.float()).masked_fill(empty[..., None], 0.0)
    merged = torch.where(total[..., None] == 0, 0.0, merged / total[..., None])
    return merged.to(outs.dtype), reference + (torch.log(total) if lse_base == "e" else torch.log2(total))


def checked_parts(
    name: str, parts: torch.Tensor | Sequence[torch.Tensor], dtypes: tuple[torch.dtype, ...]
) -> torch.Tensor:
    """The parts as one tensor, parts first."""
    if not isinstance(parts, torch.Tensor):
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise TypeError(f"{name} is a {type(parts).__name__}: must be a tensor or a sequence of tensors")
        if not parts:
            raise ValueError(f"{name} has no parts: must have at least one")
        for index, part in enumerate(parts):
            check_tensor(f"{name}[{index}]", part, dtypes)
            check_device(f"{name}[{index}]", part, parts[0])
            if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
                raise ValueError(
                    f"{name}[{index}] is {shape_text(part)} of {part.dtype}: must be as {name}[0], "
                    f"{shape_text(parts[0])} of {parts[0].dtype}"
                )
        with full_precision(parts[0].device):
            parts = torch.stack(list(parts))
    check_tensor(name, parts, dtypes)
    if parts.dim() < 1 or parts.shape[0] < 1:
        raise ValueError(f"{name} has shape {shape_text(parts)}: must be parts first, at least one")
    return parts
