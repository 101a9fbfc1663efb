"""Everything that can be slow in a server's first calls, done before it serves, and compiled kernels as files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mla.config import HEAD_DIM
from wrappers import validate
from wrappers.backends import EMULATED_ARCH, device_arch
from wrappers.call import DecodeCall
from wrappers.decode import mla_decode

# What the functions here tell their caller: kernels done, kernels in all, the one that is next ("" after the last).
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ServerShapes:
    """What the kernels of a server depend on; no length, batch size or number of pages is among it.

    One kernel is made for each element of `seq_lens_q` x `is_causal` x `lse_bases` x `packed` x `ragged`.

    dtype, num_heads, page_size: of query and cache, as `mla_decode` takes them; the heads of one rank.
    seq_lens_q: query tokens per request, e.g. (1, 4) for plain decoding and for verifying three drafts.
    lse_bases: None for calls without `return_lse`, else "e" or "2".
    packed: False for queries whose token stride is not num_heads times the head stride.
    ragged: True for calls with `cu_seqlens_q`, of which `seq_lens_q` is the `max_seq_len_q`.
    has_tree_mask, has_window, has_visible_lens, scales_on_device: what the calls are given: a tree mask, a sliding
        window (any one), visible lengths per query token, tensors for the two scales.
    dcp_world, dcp_interleave: of decode context parallelism.
    isolate_drafts: as `mla_decode` takes it.
    """

    dtype: torch.dtype
    num_heads: int
    page_size: int
    seq_lens_q: tuple[int, ...] = (1,)
    is_causal: tuple[bool, ...] = (True,)
    lse_bases: tuple[str | None, ...] = (None,)
    packed: tuple[bool, ...] = (True,)
    ragged: tuple[bool, ...] = (False,)
    has_tree_mask: bool = False
    scales_on_device: bool = False
    dcp_world: int = 1
    dcp_interleave: int = 1
    has_window: bool = False
    has_visible_lens: bool = False
    isolate_drafts: bool = False

    def empty_calls(self, device: torch.device | str) -> Iterator[tuple[str, dict[str, Any]]]:
        """A name and `mla_decode`'s arguments for each kernel: one request without keys."""
        for tokens, causal, lse_base, packed, ragged in itertools.product(
            self.seq_lens_q, self.is_causal, self.lse_bases, self.packed, self.ragged
        ):
            name = f"{tokens} tokens, {'causal' if causal else 'dense'}"
            name += f", lse base {lse_base}" if lse_base else ""
            name += ", ragged" if ragged else ""
            shape = (tokens,) if ragged else (1, tokens)
            room = torch.zeros(*shape, self.num_heads + (not packed), HEAD_DIM, dtype=self.dtype, device=device)
            scale = torch.ones(1, dtype=torch.float32, device=device) if self.scales_on_device else 1.0
            call = {
                "query": room[..., : self.num_heads, :],
                "kv_cache": torch.zeros(1, self.page_size, HEAD_DIM, dtype=self.dtype, device=device),
                "block_tables": torch.zeros(1, 1, dtype=torch.int32, device=device),
                "seq_lens": torch.zeros(1, dtype=torch.int32, device=device),
                "softmax_scale": scale,
                "output_scale": scale,
                "is_causal": causal,
                "return_lse": lse_base is not None,
                "lse_base": lse_base or "e",
                "dcp_world": self.dcp_world,
                "dcp_interleave": self.dcp_interleave,
                "isolate_drafts": self.isolate_drafts,
            }
            if ragged:
                call["cu_seqlens_q"] = torch.zeros(2, dtype=torch.int32, device=device)
                call["max_seq_len_q"] = tokens
            if self.has_tree_mask:
                call["tree_mask"] = torch.zeros(*shape, tokens, dtype=torch.bool, device=device)
            if self.has_window:
                call["window_left"] = tokens - 1
            if self.has_visible_lens:
                call["local_visible_lens"] = torch.zeros(shape, dtype=torch.int32, device=device)
            yield name, call


def warm_up(shapes: ServerShapes, device: torch.device | str = "cpu", report: Report | None = None) -> int:
    """Makes this process ready for every kernel of `shapes`: from the compile cache, else compiled.

    On a CUDA device (backend "cute") each kernel is launched once, on an empty request, so that its code is loaded
    too: a captured call then neither compiles nor loads anything. "cpu" is backend "emulator".

    Returns the number of kernels. Raises ValueError or TypeError as `mla_decode` does.
    """
    device = torch.device(device)
    arch = EMULATED_ARCH if device.type == "cpu" else device_arch(device)

    def make_ready(config: Any, call: dict[str, Any]) -> None:
        from mla.compile import compile_decode

        compile_decode(config)
        if device.type == "cuda":
            mla_decode(**call, backend="cute")

    return for_each_kernel(shapes, device, arch, make_ready, report)


def export_kernels(
    shapes: ServerShapes, folder: Path | str, arch: str = EMULATED_ARCH, report: Report | None = None
) -> int:
    """Compiles every kernel of `shapes` for `arch` (of `mla.arch.ARCHS`) into `folder`, on a machine with any GPU or
    none, for `load_kernels`. Returns the number of kernels."""

    def export(config: Any, call: dict[str, Any]) -> None:
        from mla import compile

        compile.export(config, Path(folder))

    return for_each_kernel(shapes, torch.device("cpu"), arch, export, report)


def load_kernels(folder: Path | str) -> int:
    """Takes the kernels that `export_kernels` has written: no call that they serve compiles. Returns their number.

    Raises ValueError where the folder holds none, or one that is damaged or was made by other sources or another
    compiler than are installed.
    """
    from mla.compile import load_exported

    return len(load_exported(Path(folder)))


def for_each_kernel(
    shapes: ServerShapes,
    device: torch.device,
    arch: str,
    use: Callable[[Any, dict[str, Any]], None],
    report: Report | None,
) -> int:
    """Calls `use(config, arguments of mla_decode)` for each kernel of `shapes`; reports before each and at the end."""
    from wrappers import kernel  # on use: the torch backend must not need the compiler

    report = report or (lambda done, total, label: None)
    calls = list(shapes.empty_calls(device))
    for done, (name, call) in enumerate(calls):
        report(done, len(calls), name)
        checked = validate.checked(DecodeCall(**call))
        use(kernel.decode_config(checked, arch), call)
    report(len(calls), len(calls), "")
    return len(calls)
