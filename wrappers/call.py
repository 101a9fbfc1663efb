"""`DecodeCall`: the arguments of one `mla_decode`, from the caller through the operator to the backend that runs it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

# Dtype of query and cache -> dtype of a new output; a caller's may also be e4m3 where query and cache are.
OUTPUT_DTYPES = {
    torch.bfloat16: torch.bfloat16,
    torch.float16: torch.float16,
    torch.float8_e4m3fn: torch.bfloat16,
}


@dataclass(frozen=True)
class KeyShard:
    """The keys of decode context parallelism that this rank holds: `interleave` neighbours to each rank in turn."""

    world: int
    rank: int
    interleave: int

    def local_keys(self, count: Any) -> Any:
        """How many of the first `count` keys of a request lie on this rank; a number or a tensor of them."""
        cycle = self.world * self.interleave
        rest = count % cycle - self.rank * self.interleave
        clamp = torch.clamp if isinstance(rest, torch.Tensor) else lambda value, low, high: max(low, min(value, high))
        return count // cycle * self.interleave + clamp(rest, 0, self.interleave)


@dataclass(frozen=True)
class DecodeCall:
    """`mla_decode`'s arguments, in its order and with its defaults: what its docstring says of each holds here.

    As the caller gave them, until `validate.checked` makes of them what backends take: tensors of no subclass;
    kv_cache [pages, page_size, 576]; scales floats, or float32 [1] on the query's device; tree_mask packed, int32
    [B, Q, words] or [total_q, words]; window_left None without a window. `out` and, for return_lse, `lse` are there
    once a backend runs the call.
    """

    query: torch.Tensor
    kv_cache: torch.Tensor
    block_tables: torch.Tensor
    seq_lens: torch.Tensor
    softmax_scale: float | torch.Tensor
    output_scale: float | torch.Tensor = 1.0
    is_causal: bool = True
    out: torch.Tensor | None = None
    return_lse: bool = False
    lse: torch.Tensor | None = None
    lse_base: str = "e"
    workspace: torch.Tensor | None = None
    check_values: bool | None = None
    backend: str = "auto"
    cu_seqlens_q: torch.Tensor | None = None
    max_seq_len_q: int | None = None
    tree_mask: torch.Tensor | None = None
    dcp_world: int = 1
    dcp_rank: int = 0
    dcp_interleave: int = 1
    window_left: int | None = None
    local_visible_lens: torch.Tensor | None = None
    isolate_drafts: bool = False

    @property
    def batch(self) -> int:
        return self.seq_lens.shape[0]

    @property
    def is_ragged(self) -> bool:
        return self.cu_seqlens_q is not None

    @property
    def output_dtype(self) -> torch.dtype:
        return OUTPUT_DTYPES[self.query.dtype] if self.out is None else self.out.dtype

    @property
    def seq_len_q(self) -> int:
        """Query tokens per request, the most that one may have where the query is ragged."""
        return self.max_seq_len_q if self.is_ragged else self.query.shape[1]

    @property
    def has_hidden_keys(self) -> bool:
        """Whether a query token may not see one of its request's keys."""
        one_hides = self.tree_mask is not None or self.local_visible_lens is not None
        return one_hides or (self.seq_len_q > 1 and (self.is_causal or self.window_left is not None))

    @property
    def num_heads(self) -> int:
        return self.query.shape[-2]

    @property
    def page_size(self) -> int:
        return self.kv_cache.shape[1]

    @property
    def shard(self) -> KeyShard:
        """Of one rank, all keys."""
        return KeyShard(self.dcp_world, self.dcp_rank, self.dcp_interleave)

    def changed(self, **values: Any) -> DecodeCall:
        """`dataclasses.replace` without its pass over all fields, which every launch would take."""
        other = object.__new__(DecodeCall)
        vars(other).update(vars(self), **values)
        return other

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """These fields."""
        values = vars(self)
        return {name: values[name] for name in names}


# Fields that may hold tensors; those that a call writes into, and the others.
TENSORS = tuple(field.name for field in fields(DecodeCall) if "Tensor" in field.type)
WRITTEN = ("out", "lse", "workspace")
READ = tuple(name for name in TENSORS if name not in WRITTEN)
