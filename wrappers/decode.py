"""`mla_decode`: one call for every backend."""

from __future__ import annotations

import torch

from wrappers import backends, op
from wrappers.backends import num_ctas, workspace_bytes
from wrappers.call import DecodeCall
from wrappers.tensor_kinds import is_traced

__all__ = ["mla_decode", "num_ctas", "workspace_bytes"]


def mla_decode(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    softmax_scale: float | torch.Tensor,
    output_scale: float | torch.Tensor = 1.0,
    is_causal: bool = True,
    out: torch.Tensor | None = None,
    return_lse: bool = False,
    lse: torch.Tensor | None = None,
    lse_base: str = "e",
    workspace: torch.Tensor | None = None,
    check_values: bool | None = None,
    backend: str = "auto",
    cu_seqlens_q: torch.Tensor | None = None,
    max_seq_len_q: int | None = None,
    tree_mask: torch.Tensor | None = None,
    dcp_world: int = 1,
    dcp_rank: int = 0,
    dcp_interleave: int = 1,
    window_left: int | None = None,
    local_visible_lens: torch.Tensor | None = None,
    isolate_drafts: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Multi-head latent attention of each request's last `seq_len_q` tokens over its paged KV cache.

    query: [B, seq_len_q, num_heads, 576], bfloat16, float16 or float8_e4m3fn; 512 latent dimensions, then 64 rotary.
    kv_cache: [pages, page_size, 576], [pages, 1, page_size, 576] or [pages, page_size, 1, 576] in the query's dtype;
        page_size 16, 32, 64 or 128; any strides with a contiguous last dimension. The value is the latent part.
    block_tables: [B, W] int32 page ids. Entries behind a request's last page are never read as pages.
    seq_lens: [B] int32, keys per request, the query tokens' own keys included; 0 is a padded request.
    is_causal: query token t sees keys [0, seq_lens[b] - seq_len_q + 1 + t), clamped to [0, seq_lens[b]].
    softmax_scale, output_scale: factors of the scores and of the output; for e4m3 they carry the quantisation scales,
        query's times cache's and cache's. Each a number, or a one-element float32 tensor on the query's device, which
        is read there and never waited for.
    out: [B, seq_len_q, num_heads, 512] in the query's dtype; for float8_e4m3fn bfloat16, which is what a new one has,
        or float8_e4m3fn (rounded to nearest, saturating at 448); written in place. Its memory, like that of lse and
        workspace, must not be shared with any other argument nor among its own elements.
    lse: [B, seq_len_q, num_heads] float32, any strides; with `return_lse`, written in place and returned.
    lse_base: base of the returned log-sum-exp, "e" or "2".
    workspace: 1D uint8 or int8 scratch of the kernels, 16-byte aligned, at least `workspace_bytes(device)` bytes, any
        content; calls that may run at the same time must not share one. Allocated where None. The torch backend
        leaves it alone.
    check_values: whether the values of `seq_lens` and of the table entries in use are checked. None checks them in CPU
        tensors only. True checks them anywhere and waits for the GPU. On a GPU an unchecked page id out of range is an
        illegal access, as in any kernel.
    backend: "cute" is the Blackwell kernel (an SM100, SM103 or SM107 GPU, on the caller's current stream). "emulator"
        executes the same kernel's PTX on CPU tensors, for verification only: it is many orders of magnitude slower,
        and calls from several threads take turns.
        "torch" runs anywhere. "auto" is "cute" where that can run and "torch" elsewhere.
    cu_seqlens_q: [B + 1] int32: ragged query, of which request b has tokens cu_seqlens_q[b] up to cu_seqlens_q[b + 1],
        from none up to `max_seq_len_q`. Query, out and lse are then [total_q, num_heads, ...]; tokens from
        cu_seqlens_q[B] on are neither read nor written. A request without tokens reads no keys. A kernel is compiled
        per power of two of `max_seq_len_q`, which may be larger than any request's.
    tree_mask: which draft tokens each of them sees, where they are a tree and not a chain: the request's query tokens
        are its last keys, token t sees all keys ahead of them and token u iff tree_mask[b, t, u]. Bool
        [B, seq_len_q, seq_len_q] or, ragged, [total_q, max_seq_len_q], of which a request's row counts as far as its
        tokens go; or packed, one bit each, lowest first: int32, uint32, int64 or uint64 [..., words] (bool is packed
        by the call, which allocates). At most `validate.MAX_TREE_TOKENS` tokens per request.
    dcp_world, dcp_rank, dcp_interleave: decode context parallelism: key g of a request is held by rank
        g // dcp_interleave % dcp_world. kv_cache and block_tables are this rank's, the keys in order; seq_lens count
        the keys of all ranks and are the same on every rank. The result is this rank's part, of lse -inf where it
        holds no visible key; `wrappers.partials.merge_partials` joins the parts.
    window_left: sliding window: query token t sees none of the keys before `seq_lens[b] - seq_len_q - window_left + t`,
        so many before its own position, causal or not; at least `seq_len_q - 1`, or None or -1 for no window. Pages
        wholly before the window of a request's first token are not read and their table entries may be anything; one
        kernel serves all windows. Not with `tree_mask`.
    local_visible_lens: [B, seq_len_q] or, ragged, [total_q] int32, any strides, on the query's device and read there:
        query token t sees keys [0, local_visible_lens[b, t]), from none up to `seq_lens[b]`, in any order over t, and
        whatever `is_causal` is. Pages behind the largest of a request's are not read. Not with `tree_mask`,
        `window_left` and `dcp_world` above 1.
    isolate_drafts: a key that a query token does not see cannot reach its result, whatever it holds (below). A kernel of
        its own, always of the wide path; docs/integration.md tells what it costs. Backend "torch" does so anyway.

    Returns `out`, or `(out, lse [B, seq_len_q, num_heads] float32)` with `return_lse`. Rows that see no key have
    `out = 0` and `lse = -inf`, whatever query and scales hold. Others are never made to look like these: NaN in a
    row's query, in a key that it sees or in a scale gives NaN, and so does a score of +inf. Only a row all of whose
    scores are -inf is one that sees no key, which is what merging parts of the keys makes of it.

    What a row does not see: no key outside its request's [0, seq_lens[b]) reaches any result, whatever it holds, and
    none in it that lies before the windows, or from the visible lengths on, of all query tokens of the request. Any
    other key that a row does not see, such as a later draft's, must be finite for the kernel: NaN or Inf in its latent
    dimension d may make `out[..., d]` of tokens that do not see it NaN, since tokens share tiles and 0 * NaN is NaN.
    Their log-sum-exps and other dimensions, and other requests, stay right. With `isolate_drafts`, and with backend
    "torch", such a key does not count for them at all. (With `isolate_drafts` a key with an Inf for which a row's score
    is -inf does not count for that row either: its probability is 0, and so are the values that are not finite.)

    With backend "cute" nothing waits for the GPU, and with `out`, `workspace` and (for `return_lse`) `lse` given no
    memory is allocated; inside a CUDA-graph capture nothing is compiled either: a kernel that this process does not
    have yet is an error there (`wrappers.warm_up`). Under `torch.compile` and `make_fx`, and for tensors that define
    `__torch_dispatch__` such as FakeTensor, the call is the custom op `blackwell_mla::decode` (`wrappers.op`). Any
    other subclass of Tensor is taken for the Tensor that it is.

    Raises TypeError or ValueError, naming the argument, before anything is launched or written. Not differentiable.
    """
    call = DecodeCall(
        query, kv_cache, block_tables, seq_lens, softmax_scale, output_scale, is_causal, out, return_lse, lse, lse_base,
        workspace, check_values, backend, cu_seqlens_q, max_seq_len_q, tree_mask, dcp_world, dcp_rank, dcp_interleave,
        window_left, local_visible_lens, isolate_drafts,
    )  # fmt: skip
    return op.traced_decode(call) if is_traced(call) else backends.run(call)
