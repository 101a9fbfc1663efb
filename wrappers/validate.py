"""Every error a caller of `mla_decode` can get, raised before anything is allocated, launched or written."""

from __future__ import annotations

import torch

from mla.arch import TMA_ALIGN_BYTES
from mla.config import FLOAT_BYTES, HEAD_DIM, LATENT_DIM, LSE_BASES, MAX_HEADS, PAGE_SIZES, ROPE_DIM, TREE_WORD_BITS
from wrappers.aliasing import Layout, first_shared, overlaps_itself
from wrappers.call import OUTPUT_DTYPES, READ, TENSORS, WRITTEN, DecodeCall
from wrappers.tensor_kinds import is_in_memory, is_plain, plain
from wrappers.values import MAX_KV_LEN, check_call_values

DTYPES = tuple(OUTPUT_DTYPES)
BACKENDS = ("auto", "cute", "emulator", "torch")
# The kernels count key tiles of the whole batch, at least one per row tile, in int32.
COUNTED_TILE_TOKENS, COUNTED_TILE_ROWS = 64, 64
MAX_COUNT = 2**31 - 2**16
# A page id is int32, and so is the coordinate that TMA takes.
MAX_PAGES = 2**31 - 1
# Query tokens of a request under a tree mask. The kernel's mask has no limit of its own; tests go this far.
MAX_TREE_TOKENS = 256
# What the bits of a packed tree mask may come in.
TREE_WORD_DTYPES = (torch.int32, torch.uint32, torch.int64, torch.uint64)
# Keys after which the ranks of decode context parallelism take turns anew: world * interleave.
MAX_DCP_CYCLE = 2**24
# Strides and base addresses that a TMA tensor map can hold (PTX ISA, tensor-map: 16-byte aligned global address,
# global strides that are multiples of 16 bytes and below 2^40).
TMA_MAX_STRIDE_BYTES = 2**40
# The kernel sees the workspace as fp32 and moves it in 16-byte accesses.
WORKSPACE_ALIGN_BYTES = 16


def checked(call: DecodeCall) -> DecodeCall:
    """The call as backends take it (`DecodeCall`), nothing of it copied but a tree mask that is not packed.

    Raises TypeError for an argument of the wrong type or dtype and ValueError for any other fault; the message names
    the argument, what came and what is allowed. `check_values` decides whether the values of `seq_lens` and of the
    table entries in use are among what is checked: None is where they are in the host's memory; True reads them from
    any device, which waits for it.
    """
    call = of_plain_tensors(call)
    query, max_seq_len_q, tree_mask = call.query, call.max_seq_len_q, call.tree_mask
    check_query(query, is_ragged=call.is_ragged)
    taken = {"kv_cache": check_kv_cache(call.kv_cache, query)}
    batch = check_batch(query, call.cu_seqlens_q, max_seq_len_q)
    check_index_tensor("block_tables", call.block_tables, 2, query, batch)
    check_index_tensor("seq_lens", call.seq_lens, 1, query, batch)
    taken["softmax_scale"] = checked_scale("softmax_scale", call.softmax_scale, query)
    taken["output_scale"] = checked_scale("output_scale", call.output_scale, query)
    check_bool("is_causal", call.is_causal)
    check_bool("return_lse", call.return_lse)
    check_choice("lse_base", call.lse_base, LSE_BASES)
    check_bool("isolate_drafts", call.isolate_drafts)
    if call.out is not None:
        check_out(call.out, query)
    if call.lse is not None:
        check_lse(call.lse, query, call.return_lse)
    if call.workspace is not None:
        check_workspace(call.workspace, query)
    check_dcp(call.dcp_world, call.dcp_rank, call.dcp_interleave)
    if tree_mask is not None:
        taken["tree_mask"] = checked_tree_mask(tree_mask, query, max_seq_len_q, call.is_causal, call.dcp_world)
    taken["window_left"] = window_left = checked_window(call.window_left, query, max_seq_len_q, tree_mask)
    if call.local_visible_lens is not None:
        check_visible_lens(call.local_visible_lens, query, tree_mask, window_left, call.dcp_world)
    check_written_apart(call.given(WRITTEN), call.given(READ))
    changed = {name: value for name, value in taken.items() if value is not getattr(call, name)}
    call = call.changed(**changed) if changed else call
    if wants_value_checks(call.check_values, query):
        check_call_values(call)
    return call


def of_plain_tensors(call: DecodeCall) -> DecodeCall:
    """The call without subclasses of Tensor that mean nothing of their own (`plain`)."""
    given = call.given(TENSORS)
    changed = {name: plain(value) for name, value in given.items() if not is_plain(value)}
    return call.changed(**changed) if changed else call


def check_query(query: torch.Tensor, is_ragged: bool = False) -> None:
    check_tensor("query", query, DTYPES)
    tokens = "total_q" if is_ragged else "batch, seq_len_q"
    if query.dim() != (3 if is_ragged else 4):
        given = "with cu_seqlens_q" if is_ragged else "without cu_seqlens_q"
        raise ValueError(f"query has shape {shape_text(query)}: must be [{tokens}, num_heads, {HEAD_DIM}] {given}")
    num_tokens, num_heads, head_dim = query.shape[-3:]
    last = query.dim() - 1
    if head_dim != HEAD_DIM:
        raise ValueError(
            f"query.shape[{last}]={head_dim}: must be {HEAD_DIM} (kv_lora_rank {LATENT_DIM} + rope {ROPE_DIM})"
        )
    if not 1 <= num_heads <= MAX_HEADS:
        raise ValueError(f"query.shape[{last - 1}]={num_heads}: num_heads must be 1..{MAX_HEADS}")
    if num_tokens < 1 and not is_ragged:
        raise ValueError(f"query.shape[1]={num_tokens}: seq_len_q must be at least 1")
    check_last_dim_contiguous("query", query)


def check_batch(query: torch.Tensor, cu_seqlens_q: torch.Tensor | None, max_seq_len_q: int | None) -> int:
    """The number of requests; `cu_seqlens_q` and `max_seq_len_q` are given both or neither."""
    if cu_seqlens_q is None:
        if max_seq_len_q is not None:
            raise ValueError(f"max_seq_len_q={max_seq_len_q}: must be None without cu_seqlens_q")
        return query.shape[0]
    check_tensor("cu_seqlens_q", cu_seqlens_q, (torch.int32,))
    check_device("cu_seqlens_q", cu_seqlens_q, query)
    if cu_seqlens_q.dim() != 1 or cu_seqlens_q.shape[0] < 1:
        raise ValueError(f"cu_seqlens_q has shape {shape_text(cu_seqlens_q)}: must be [batch + 1]")
    check_last_dim_contiguous("cu_seqlens_q", cu_seqlens_q)
    check_int("max_seq_len_q", max_seq_len_q, 1, MAX_KV_LEN)
    return cu_seqlens_q.shape[0] - 1


def check_dcp(world: int, rank: int, interleave: int) -> None:
    check_int("dcp_world", world, 1, MAX_DCP_CYCLE)
    check_int("dcp_rank", rank, 0, world - 1)
    check_int("dcp_interleave", interleave, 1, MAX_DCP_CYCLE // world)


def checked_window(
    window_left: int | None, query: torch.Tensor, max_seq_len_q: int | None, tree_mask: torch.Tensor | None
) -> int | None:
    """None for no window, which is -1 too."""
    if window_left is None:
        return None
    if isinstance(window_left, bool) or not isinstance(window_left, int):
        raise TypeError(f"window_left is a {type(window_left).__name__}: must be an int or None")
    if window_left == -1:
        return None
    num_tokens, name = (query.shape[1], "query.shape[1]") if max_seq_len_q is None else (max_seq_len_q, "max_seq_len_q")
    if not num_tokens - 1 <= window_left <= MAX_KV_LEN:
        raise ValueError(
            f"window_left={window_left}: must be None, -1 or {num_tokens - 1}..{MAX_KV_LEN}, with {name}={num_tokens}"
        )
    if tree_mask is not None:
        raise ValueError(f"window_left={window_left}: must be None or -1 with a tree_mask")
    return window_left


def check_visible_lens(
    local_visible_lens: torch.Tensor,
    query: torch.Tensor,
    tree_mask: torch.Tensor | None,
    window_left: int | None,
    dcp_world: int,
) -> None:
    check_tensor("local_visible_lens", local_visible_lens, (torch.int32,))
    check_device("local_visible_lens", local_visible_lens, query)
    expected = list(query.shape[:-2])
    if list(local_visible_lens.shape) != expected:
        raise ValueError(f"local_visible_lens has shape {shape_text(local_visible_lens)}: must be {expected}")
    if tree_mask is not None:
        raise ValueError("local_visible_lens: must be None with a tree_mask")
    if window_left is not None:
        raise ValueError(f"local_visible_lens: must be None with window_left={window_left}")
    if dcp_world > 1:
        raise ValueError(f"local_visible_lens: must be None with dcp_world={dcp_world}")


def checked_tree_mask(
    tree_mask: torch.Tensor, query: torch.Tensor, max_seq_len_q: int | None, is_causal: bool, dcp_world: int
) -> torch.Tensor:
    """The mask as int32 words, `[batch, seq_len_q, words]` or, ragged, `[total_q, words]`, lowest bit first."""
    check_tensor("tree_mask", tree_mask, (torch.bool, *TREE_WORD_DTYPES))
    check_device("tree_mask", tree_mask, query)
    if not is_causal:
        raise ValueError("tree_mask: must be None with is_causal=False, which has every query token see every key")
    if dcp_world > 1:
        raise ValueError(f"tree_mask: must be None with dcp_world={dcp_world}: it is defined for unsplit caches only")
    num_tokens = query.shape[1] if max_seq_len_q is None else max_seq_len_q
    if num_tokens > MAX_TREE_TOKENS:
        name = "query.shape[1]" if max_seq_len_q is None else "max_seq_len_q"
        raise ValueError(f"{name}={num_tokens}: must be at most {MAX_TREE_TOKENS} with a tree_mask")
    bits = 1 if tree_mask.dtype == torch.bool else 8 * tree_mask.element_size()
    expected = [*query.shape[:-2], -(-num_tokens // bits)]
    if list(tree_mask.shape) != expected:
        raise ValueError(
            f"tree_mask has shape {shape_text(tree_mask)} of {tree_mask.dtype}: must be {expected}, {bits} query "
            f"token{'s' if bits > 1 else ''} to an element"
        )
    check_last_dim_contiguous("tree_mask", tree_mask)
    if tree_mask.dtype == torch.bool:
        return pack_bits(tree_mask)
    if tree_mask.shape[-1] == 1:  # whose stride torch leaves arbitrary, but for `view`
        tree_mask = tree_mask.as_strided(tree_mask.shape, (*tree_mask.stride()[:-1], 1))
    return tree_mask.view(torch.int32)


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Bool `[..., n]` as int32 `[..., ceil(n / 32)]`, lowest bit first."""
    words = -(-mask.shape[-1] // TREE_WORD_BITS)
    padded = torch.nn.functional.pad(mask, (0, words * TREE_WORD_BITS - mask.shape[-1]))
    weights = 1 << torch.arange(TREE_WORD_BITS, device=mask.device)
    return (padded.unflatten(-1, (words, TREE_WORD_BITS)) * weights).sum(-1).to(torch.int32)


def check_kv_cache(kv_cache: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The cache as `[pages, page_size, 576]`, the same memory."""
    check_tensor("kv_cache", kv_cache, (query.dtype,))
    check_device("kv_cache", kv_cache, query)
    allowed = f"[pages, page_size, {HEAD_DIM}], [pages, 1, page_size, {HEAD_DIM}] or [pages, page_size, 1, {HEAD_DIM}]"
    if kv_cache.dim() == 4 and kv_cache.shape[1] == 1:
        cache = kv_cache.squeeze(1)
    elif kv_cache.dim() == 4 and kv_cache.shape[2] == 1:
        cache = kv_cache.squeeze(2)
    elif kv_cache.dim() == 3:
        cache = kv_cache
    else:
        raise ValueError(f"kv_cache has shape {shape_text(kv_cache)}: must be {allowed}")
    num_pages, page_size, head_dim = cache.shape
    if head_dim != HEAD_DIM:
        raise ValueError(f"kv_cache has shape {shape_text(kv_cache)}: its last dimension must be {HEAD_DIM}")
    if page_size not in PAGE_SIZES:
        raise ValueError(f"kv_cache has page_size={page_size}: must be one of {list_text(PAGE_SIZES)}")
    if num_pages < 1:
        raise ValueError(f"kv_cache has shape {shape_text(kv_cache)}: must hold at least one page")
    if num_pages > MAX_PAGES:
        raise ValueError(f"kv_cache has shape {shape_text(kv_cache)}: must hold at most {MAX_PAGES} pages")
    check_last_dim_contiguous("kv_cache", cache)
    return cache


def check_index_tensor(name: str, value: torch.Tensor, rank: int, query: torch.Tensor, batch: int) -> None:
    check_tensor(name, value, (torch.int32,))
    check_device(name, value, query)
    expected = "[batch]" if rank == 1 else "[batch, pages per request]"
    if value.dim() != rank:
        raise ValueError(f"{name} has shape {shape_text(value)}: must be {expected}")
    if value.shape[0] != batch:
        of = "query" if query.dim() == 4 else "cu_seqlens_q"
        raise ValueError(f"{name}.shape[0]={value.shape[0]}: must be the batch of {of}, {batch}")
    check_last_dim_contiguous(name, value)


def check_out(out: torch.Tensor, query: torch.Tensor, dtypes: tuple[torch.dtype, ...] | None = None) -> None:
    """`dtypes`: where they are others than `mla_decode`'s."""
    check_tensor("out", out, dtypes or tuple(dict.fromkeys((OUTPUT_DTYPES[query.dtype], query.dtype))))
    check_device("out", out, query)
    expected = [*query.shape[:-1], LATENT_DIM]
    if list(out.shape) != expected:
        raise ValueError(f"out has shape {shape_text(out)}: must be {expected}")
    check_last_dim_contiguous("out", out)
    check_rows_apart("out", out)
    check_no_grad("out", out)


def check_lse(lse: torch.Tensor, query: torch.Tensor, return_lse: bool) -> None:
    check_tensor("lse", lse, (torch.float32,))
    check_device("lse", lse, query)
    expected = list(query.shape[:-1])
    if list(lse.shape) != expected:
        raise ValueError(f"lse has shape {shape_text(lse)}: must be {expected}")
    check_rows_apart("lse", lse)
    check_no_grad("lse", lse)
    if not return_lse:
        raise ValueError("lse is a Tensor: must be None without return_lse=True")


def check_rows_apart(name: str, value: torch.Tensor) -> None:
    """No two elements of what is written are in one place. Of a traced tensor, with sizes that may be symbols, only
    strides of 0 are seen."""
    shared = any(size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride()))
    if not shared and value.numel() and is_in_memory(value):
        shared = overlaps_itself(Layout.of(value))
    if shared:
        raise ValueError(
            f"{name} has shape {shape_text(value)} and strides {list(value.stride())}: its elements must not share "
            "memory"
        )


def check_no_grad(name: str, value: torch.Tensor) -> None:
    """As torch's own functions have it for their `out`."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad: must not, or call under torch.no_grad(): there is no derivative")


def check_writable(name: str, value: torch.Tensor | None) -> None:
    """What torch's own operators, which every backend but "cute" uses, can write."""
    if value is not None and value.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{name} was made in inference mode: it can be written in inference mode only")


def check_written_apart(written: dict[str, torch.Tensor | None], read: dict[str, object]) -> None:
    """Nothing that the call writes lies in the memory of anything else that it is given."""
    placed = [
        {name: value for name, value in group.items() if isinstance(value, torch.Tensor) and is_in_memory(value)}
        for group in (written, read)
    ]
    shared = first_shared(*placed)
    if shared is not None:
        raise ValueError(f"{shared[0]} shares memory with {shared[1]}: what is written must have its own")


def check_workspace(workspace: torch.Tensor, query: torch.Tensor) -> None:
    check_tensor("workspace", workspace, (torch.uint8, torch.int8))
    check_device("workspace", workspace, query)
    if workspace.dim() != 1:
        raise ValueError(f"workspace has shape {shape_text(workspace)}: must have one dimension (bytes)")
    check_last_dim_contiguous("workspace", workspace)


def check_kernel_workspace(workspace: torch.Tensor, needed: int) -> None:
    """What a kernel asks of a caller's buffer that `check_workspace` has passed; `needed` in bytes."""
    if workspace.numel() < needed:
        raise ValueError(f"workspace has {workspace.numel()} bytes: must have at least {needed} for this backend")
    if workspace.data_ptr() % WORKSPACE_ALIGN_BYTES:
        raise ValueError(
            f"workspace starts at address {workspace.data_ptr():#x}: must be a multiple of {WORKSPACE_ALIGN_BYTES} "
            "bytes for this backend"
        )
    if workspace.storage_offset() % FLOAT_BYTES:
        raise ValueError(
            f"workspace starts {workspace.storage_offset()} bytes into its storage: must be a multiple of {FLOAT_BYTES}"
        )


def wants_value_checks(check_values: bool | None, query: torch.Tensor) -> bool:
    """Whether lengths and page ids are to be read on the host."""
    if check_values is None:
        return query.device.type == "cpu"
    check_bool("check_values", check_values)
    if check_values and query.device.type == "meta":
        raise ValueError("check_values=True: query is on meta, where there are no values")
    if check_values and query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError("check_values=True: values cannot be read while a CUDA graph is captured")
    return check_values


def check_backend(backend: str) -> None:
    check_choice("backend", backend, BACKENDS)


def check_kernel_operands(call: DecodeCall) -> None:
    """What the Blackwell kernel asks beyond the contract: memory that TMA and 16-byte stores can address, and a batch
    whose tiles it can count.
    """
    row_tiles = call.batch * -(-call.seq_len_q * call.num_heads // COUNTED_TILE_ROWS)
    key_tiles = max(1, -(-call.block_tables.shape[1] * call.page_size // COUNTED_TILE_TOKENS))
    if row_tiles * key_tiles > MAX_COUNT:
        raise ValueError(
            f"query and block_tables, {shape_text(call.query)} and {shape_text(call.block_tables)}: {row_tiles} row "
            f"tiles of up to {key_tiles} key tiles; their product must be at most {MAX_COUNT} for this backend "
            "(backend='torch' takes any)"
        )
    for name, tensor in (("query", call.query), ("kv_cache", call.kv_cache), ("out", call.out)):
        if tensor is None:
            continue
        if tensor.data_ptr() % TMA_ALIGN_BYTES:
            raise ValueError(
                f"{name} starts at address {tensor.data_ptr():#x}: must be a multiple of {TMA_ALIGN_BYTES} bytes for "
                "this backend (backend='torch' takes any)"
            )
        for dim, (size, stride) in enumerate(zip(tensor.shape[:-1], tensor.stride()[:-1])):
            stride_bytes = stride * tensor.element_size()
            if size > 1 and (stride_bytes % TMA_ALIGN_BYTES or not 0 < stride_bytes < TMA_MAX_STRIDE_BYTES):
                raise ValueError(
                    f"{name}.stride({dim})={stride} elements ({stride_bytes} bytes): must be a positive multiple of "
                    f"{TMA_ALIGN_BYTES} bytes below 2^40 for this backend (backend='torch' takes any)"
                )


def check_tensor(name: str, value: object, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}: must be a torch.Tensor")
    if value.layout != torch.strided:
        raise TypeError(f"{name} has layout {value.layout}: must be torch.strided")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {value.dtype}: must be {list_text(dtypes)}")


def check_device(name: str, value: torch.Tensor, query: torch.Tensor) -> None:
    if value.device != query.device:
        raise ValueError(f"{name} is on {value.device}: must be on the device of query, {query.device}")


def check_last_dim_contiguous(name: str, value: torch.Tensor) -> None:
    if value.shape[-1] > 1 and value.stride(-1) != 1:
        raise ValueError(f"{name} has strides {list(value.stride())}: the last dimension must be contiguous (stride 1)")


def checked_scale(name: str, value: object, query: torch.Tensor) -> float | torch.Tensor:
    """A finite float, or a one-element float32 tensor as a view of shape [1]; its value stays unread."""
    if isinstance(value, torch.Tensor):
        check_tensor(name, value, (torch.float32,))
        check_device(name, value, query)
        if value.numel() != 1:
            raise ValueError(f"{name} has shape {shape_text(value)}: a tensor must have one element")
        return value.reshape(1)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a {type(value).__name__}: must be a float or a one-element float32 tensor")
    # Every backend computes with the number in float32.
    if not abs(value) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name}={value}: must be finite in float32")
    return float(value)


def check_int(name: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a {type(value).__name__}: must be an int")
    if not lowest <= value <= highest:
        raise ValueError(f"{name}={value}: must be {lowest}..{highest}")


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is a {type(value).__name__}: must be a bool")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {list_text(map(repr, allowed))}")


def shape_text(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))


def list_text(items) -> str:
    return ", ".join(str(item) for item in items)
