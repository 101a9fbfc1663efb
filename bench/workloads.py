"""Decode calls as data: what a benchmark is given, and those with published or modelled figures of the peers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from mla.config import ELEMENT_BYTES, HEAD_DIM, LATENT_DIM, UNCUT_TILES
from wrappers.command_line import integer

OUTPUT_BYTES = 2


@dataclass(frozen=True)
class Workload:
    """One call. kv_lens: keys of each request, the query tokens' own included. isolate_drafts: as `mla_decode` has it.
    rescale_threshold, avoid, uncut_tiles, stages: of the kernel's config. ragged_query: the kernel that reads each request's
    number of query tokens, given as many for all.
    """

    dtype: str
    num_heads: int
    seq_len_q: int
    kv_lens: tuple[int, ...]
    page_size: int = 64
    isolate_drafts: bool = False
    rescale_threshold: float = 0.0
    ragged_query: bool = False
    avoid: tuple[str, ...] = ()
    uncut_tiles: int = UNCUT_TILES
    stages: tuple[int, ...] = ()

    @classmethod
    def uniform(cls, dtype: str, num_heads: int, seq_len_q: int, kv_len: int, batch: int, page_size: int = 64):
        return cls(dtype, num_heads, seq_len_q, (kv_len,) * batch, page_size)

    @property
    def batch(self) -> int:
        return len(self.kv_lens)

    @property
    def rows(self) -> int:
        """Rows (query token x head) of a request."""
        return self.num_heads * self.seq_len_q

    @property
    def kv_len(self) -> int:
        """Keys of every request. Raises ValueError if they differ."""
        if len(set(self.kv_lens)) != 1:
            raise ValueError(f"kv_lens={self.kv_lens}: must be equal")
        return self.kv_lens[0]

    @property
    def name(self) -> str:
        lengths = sorted(set(self.kv_lens))
        keys = "+".join(f"{self.kv_lens.count(n)}x{_short(n)}" for n in reversed(lengths))
        keys = _short(lengths[0]) if len(lengths) == 1 else keys
        return f"{self.dtype} h{self.num_heads} q{self.seq_len_q} {keys} b{self.batch}"

    @property
    def kv_bytes(self) -> int:
        """The cache read once."""
        return sum(self.kv_lens) * HEAD_DIM * ELEMENT_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Query read once, output written once."""
        return self.batch * self.rows * (HEAD_DIM * ELEMENT_BYTES[self.dtype] + LATENT_DIM * OUTPUT_BYTES)

    def scores(self, tile_rows: int) -> int:
        """Scores, which is exponentials, in whole row tiles of `tile_rows`: a partly empty one costs as much."""
        return -(-self.rows // tile_rows) * tile_rows * sum(self.kv_lens)

    def flop(self, tile_rows: int) -> int:
        """Multiplications and additions of Q K^T and P V, in whole row tiles of `tile_rows`."""
        return 2 * self.scores(tile_rows) * (HEAD_DIM + LATENT_DIM)


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a call whose requests have the same number of keys."""
    parser.add_argument("--batch", type=integer(1), default=64)
    parser.add_argument("--num-heads", type=integer(1, 128), default=16)
    parser.add_argument("--seq-len-q", type=integer(1, 2**20), default=8)
    parser.add_argument("--kv-len", type=integer(1), default=2048)


def workload_of(options: argparse.Namespace) -> Workload:
    """The call of `add_workload_arguments`, a --dtype, and --page-size where the command has one."""
    shape = (options.dtype, options.num_heads, options.seq_len_q, options.kv_len, options.batch)
    return Workload.uniform(*shape, page_size=getattr(options, "page_size", 64))


def _short(keys: int) -> str:
    return f"{keys // 1024}K" if keys % 1024 == 0 else str(keys)


_LONG = 80 * 1024
IMBALANCED = Workload("fp8", 16, 4, (_LONG,) + (2048,) * 15)
# Those of ../shared/knowledge/performance.md, section 6, in its order.
WORKLOADS = (
    *(Workload.uniform("fp8", 16, 4, _LONG, batch) for batch in (1, 2, 4, 8, 16)),
    *(Workload.uniform("fp8", 32, 4, _LONG, batch) for batch in (4, 8, 16)),
    *(Workload.uniform("fp8", 128, 1, 8192, batch) for batch in (1, 32, 64)),
    Workload.uniform("bf16", 128, 1, 8192, 32),
    Workload.uniform("bf16", 16, 8, 2048, 10),
    Workload.uniform("bf16", 16, 4, 16384, 8),
    IMBALANCED,
)
# Shapes that servers have beside those: few heads and tokens, several row tiles that read the same keys, large batches,
# short and long keys, lengths that are multiples of nothing, and that grow by a factor.
USER_WORKLOADS = (
    Workload.uniform("fp8", 8, 1, 8192, 64),
    Workload.uniform("bf16", 16, 1, 1024, 128),
    Workload.uniform("bf16", 16, 2, 32768, 4),
    Workload.uniform("fp8", 16, 4, 128 * 1024, 1),
    Workload.uniform("fp8", 64, 1, 4096, 64),
    Workload.uniform("bf16", 64, 2, 4096, 32),
    Workload.uniform("fp8", 96, 1, 8192, 32),
    Workload.uniform("fp8", 128, 2, 8192, 32),
    Workload.uniform("bf16", 128, 4, 4096, 16),
    Workload.uniform("fp8", 128, 8, 2048, 16),
    Workload.uniform("fp8", 128, 1, 4096, 256),
    Workload.uniform("fp8", 128, 1, 501, 512),
    Workload.uniform("bf16", 128, 1, 2011, 64),
    Workload.uniform("fp8", 16, 4, 2011, 128),
    Workload("fp8", 16, 4, tuple(1024 * 2 ** (i % 8) for i in range(32))),
)
