"""Counts the decode calls of an engine's run and checks each against the reference."""

from __future__ import annotations

from typing import Any

import torch

from wrappers.engines.settings import engine_backend
from wrappers.reference import mla_decode_reference
from wrappers.testing import snr_db

# Lowest signal-to-noise ratio of a call against the fp32 reference: what it has with backend "torch" is about 55 in
# bf16; e4m3 is rounded to in P as well.
FLOORS_DB = {torch.bfloat16: 45.0, torch.float8_e4m3fn: 25.0}


class CheckedCalls:
    """`calls`: of the attention backend; `ragged`: those whose requests have different numbers of query tokens;
    `launches`: kernels that the emulator has run; `failed`: calls below the floor."""

    def __init__(self) -> None:
        self.calls = self.ragged = self.launches = self.failed = 0
        self.lowest_db = float("inf")

    def count_launches(self) -> None:
        """From now on. Not before vLLM's worker stands: it looks through every imported module for kernels, and fails
        at llvmlite, which the emulator imports."""
        if engine_backend() != "emulator":
            return
        from wrappers import emulated

        launch = emulated.launch

        def counted(*arguments: Any, **options: Any) -> None:
            launch(*arguments, **options)
            self.launches += 1

        emulated.launch = counted

    def check(
        self, query: torch.Tensor, starts: torch.Tensor, out: torch.Tensor, *reference: Any, **options: Any
    ) -> None:
        """query [T, H, 576] and out [T, H, 512], of which request b has rows starts[b] up to starts[b + 1]; `reference`
        and `options` are the other arguments of `mla_decode_reference`."""
        expected, lse = mla_decode_reference(query, *reference, cu_seqlens_q=starts, **options)
        found = snr_db(out.float(), expected, lse != -torch.inf)
        self.calls += 1
        self.ragged += len(set(starts.diff().tolist())) > 1
        self.lowest_db = min(self.lowest_db, found)
        self.failed += not found >= FLOORS_DB[query.dtype]

    def vllm(
        self, impl: Any, q: Any, cache: torch.Tensor, metadata: Any, layer: Any, result: tuple[torch.Tensor, Any]
    ) -> tuple[torch.Tensor, Any]:
        """Checks one `forward_mqa` from the engine's own metadata, not from what the backend made of it."""
        starts = metadata.query_start_loc[: metadata.num_decodes + 1]
        scale, output_scale = impl.scale, 1.0
        if cache.dtype == torch.float8_e4m3fn:
            scale, output_scale = scale * layer._q_scale_float * layer._k_scale_float, layer._k_scale_float
        query = torch.cat(q, dim=-1) if isinstance(q, tuple) else q
        self.check(
            query, starts, result[0], cache, metadata.decode.block_table, metadata.decode.seq_lens,
            softmax_scale=scale, output_scale=output_scale,
        )  # fmt: skip
        return result

    def summary(self) -> dict[str, Any]:
        lowest = self.lowest_db if self.calls else None
        names = ("calls", "ragged", "launches", "failed")
        return {**{name: getattr(self, name) for name in names}, "lowest_db": lowest}
