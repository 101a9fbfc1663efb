"""The decode calls of other MLA libraries, argument by argument, computed by `wrappers.decode.mla_decode`.

Each module has the functions of one library under their own names: their parameters, defaults, log-sum-exp base and
layout, and what they return. Two things are kept from `mla_decode` wherever a library leaves them undefined: rows that
see no key give 0 (and a log-sum-exp of -inf, unless the library defines another), and table entries that are not in use
may hold anything. An argument that asks for something else than dense MLA decoding is refused by name.

The libraries' signatures do not say which of our backends computes; `use_backend` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral

import torch

from mla.config import LATENT_DIM, ROPE_DIM
from wrappers import validate
from wrappers.call import KeyShard
from wrappers.decode import workspace_bytes

_backend: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Calls inside are computed by this backend of `mla_decode`, "auto" by default."""
    validate.check_backend(backend)
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def current_backend() -> str:
    return _backend.get()


@contextmanager
def naming(**names: str) -> Iterator[None]:
    """Errors of `mla_decode` inside name arguments as the library's caller knows them: `names` is ours=theirs."""
    # "query tokens" are not the argument; what follows a dot is part of a path or of another name.
    ours = re.compile(rf"(?<![\w.])({'|'.join(names)})(?! tokens?\b)(?!\w)")
    try:
        yield
    except (ValueError, TypeError) as error:
        text = ours.sub(lambda match: names[match[1]], str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error


def refuse_unless(allowed: object, **given: object) -> None:
    """ValueError for each named argument that is not `allowed`: it asks for what this project does not do."""
    for name, value in given.items():
        if not is_same(value, allowed):
            raise ValueError(f"{name}={value_text(value)}: must be {allowed!r} here, the rest is not supported")


def refuse_without(needed: str, default: object, **given: object) -> None:
    """ValueError for each named argument that is not its default: it means something only together with `needed`."""
    for name, value in given.items():
        if not is_same(value, default):
            raise ValueError(f"{name}={value_text(value)}: needs {needed}; without, it must be {default!r}")


def refuse_with(other: str, default: object, **given: object) -> None:
    """ValueError for each named argument that is not its default: it cannot be combined with `other`."""
    for name, value in given.items():
        if not is_same(value, default):
            raise ValueError(f"{name}={value_text(value)}: must be {default!r} with {other}")


def is_same(value: object, allowed: object) -> bool:
    """By identity and type first: a tensor does not compare to a truth value. Integers are of any kind, numpy's too."""
    if value is allowed or (type(value) is type(allowed) and value == allowed):
        return True
    integers = [isinstance(each, Integral) and not isinstance(each, bool) for each in (value, allowed)]
    return all(integers) and value == allowed


def value_text(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, (torch.Tensor, list, tuple)) else repr(value)


def check_dims(kv_lora_rank: object, qk_rope_head_dim: object) -> None:
    refuse_unless(LATENT_DIM, kv_lora_rank=kv_lora_rank)
    refuse_unless(ROPE_DIM, qk_rope_head_dim=qk_rope_head_dim)


def integer(name: str, value: object, lowest: int) -> int:
    """An int from any kind of integer, numpy's too, that is at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is a {type(value).__name__}: must be an int")
    if value < lowest:
        raise ValueError(f"{name}={value}: must be at least {lowest}")
    return int(value)


def usable_workspace(buffer: object, query: torch.Tensor) -> torch.Tensor | None:
    """The caller's buffer where the kernels can use it, else None, and they allocate their own.

    The libraries ask for sizes that depend on the call, down to none at all; ours is one size, `workspace_bytes`.
    """
    validate.check_tensor("workspace_buffer", buffer, (torch.uint8, torch.int8))
    validate.check_device("workspace_buffer", buffer, query)
    if current_backend() == "torch" or (current_backend() == "auto" and query.device.type != "cuda"):
        return None
    fits = buffer.dim() == 1 and buffer.numel() >= workspace_bytes(query.device)
    aligned = buffer.is_contiguous() and buffer.data_ptr() % validate.WORKSPACE_ALIGN_BYTES == 0
    return buffer if fits and aligned else None


def int32_lengths(seq_lens: object) -> torch.Tensor:
    """Lengths as the libraries take them, of any integer dtype."""
    validate.check_tensor("seq_lens", seq_lens, (torch.int32, torch.int64))
    return seq_lens.to(torch.int32)


def global_lengths(
    name: str,
    value: object,
    seq_lens: torch.Tensor,
    world: int,
    rank: int,
    is_causal: bool = True,
    interleave: int = 1,
) -> torch.Tensor:
    """What a library calls the global causal bound, argument `name`, as `mla_decode`'s lengths of all ranks' keys.

    The libraries take the rank's own lengths, `seq_lens`, beside it. Keys below the bound are all that count under a
    causal mask, so the rank must hold at least its share of them (every `world`-th block of `interleave` keys from
    block `rank` on), and without one exactly that. This is checked where it costs no synchronisation, in CPU tensors.
    """
    validate.check_tensor(name, value, (torch.int32, torch.int64))
    validate.check_device(name, value, seq_lens)
    if value.shape != seq_lens.shape:
        raise ValueError(f"{name} has shape {list(value.shape)}: must be that of seq_lens, {list(seq_lens.shape)}")
    validate.check_int("cp_rank", rank, 0, world - 1)
    lengths = value.to(torch.int32)
    if lengths.device.type == "cpu":
        share = KeyShard(world, rank, interleave).local_keys(lengths)
        wrong = share > seq_lens if is_causal else share != seq_lens
        if wrong.any():
            raise ValueError(
                f"seq_lens={seq_lens.tolist()}: must be {'at least ' if is_causal else ''}{share.tolist()}, the share "
                f"of rank {rank} of {world} in {name}={value.tolist()}"
            )
    return lengths
