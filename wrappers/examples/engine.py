"""The decode path of a serving engine on `mla_decode`: paged cache, speculative verification, captured steps.

python -m wrappers.examples.engine --backend emulator

What it shows is the contract, not an engine: which memory is allocated once, which tensors change between steps and are
read on the device, and what a captured step may and may not do. docs/integration.md goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mla.config import HEAD_DIM, LATENT_DIM
from wrappers import command_line
from wrappers.backends import device_arch
from wrappers.call import OUTPUT_DTYPES
from wrappers.decode import mla_decode, workspace_bytes
from wrappers.warm_up import ServerShapes, warm_up


@dataclass(frozen=True)
class EngineConfig:
    """num_drafts: draft tokens verified per step beside the one that is known; num_heads: of this rank."""

    num_heads: int
    num_pages: int
    page_size: int = 64
    max_batch: int = 8
    max_pages_per_request: int = 64
    num_drafts: int = 3
    dtype: torch.dtype = torch.bfloat16
    softmax_scale: float = 192**-0.5
    device: str = "cpu"
    backend: str = "auto"

    @property
    def verify_tokens(self) -> int:
        return 1 + self.num_drafts

    @property
    def is_captured(self) -> bool:
        """Backend "torch" reads the lengths on the host, which a CUDA graph cannot."""
        return torch.device(self.device).type == "cuda" and self.backend != "torch"


class PagedCache:
    """Latent cache of all requests, `[num_pages, page_size, 576]`, and who owns which page.

    `block_tables` [max_batch, max_pages_per_request] and `seq_lens` [max_batch] live on the device and are what the
    kernels read. A slot without a request has length 0; table entries not in use stay -1.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        options = {"dtype": torch.int32, "device": config.device}
        self.pages = torch.zeros(config.num_pages, config.page_size, HEAD_DIM, dtype=config.dtype, device=config.device)
        self.block_tables = torch.full((config.max_batch, config.max_pages_per_request), -1, **options)
        self.seq_lens = torch.zeros(config.max_batch, **options)
        self.free_pages = list(range(config.num_pages))
        self.owned: list[list[int]] = [[] for _ in range(config.max_batch)]
        self.lengths = [0] * config.max_batch

    def append(self, slot: int, tokens: torch.Tensor) -> None:
        """Writes `tokens` [count, 576] behind the request's last one and counts them in `seq_lens`."""
        size = self.config.page_size
        start, stop = self.lengths[slot], self.lengths[slot] + len(tokens)
        while len(self.owned[slot]) * size < stop:
            if not self.free_pages or len(self.owned[slot]) == self.config.max_pages_per_request:
                raise RuntimeError(f"slot {slot}: no page is left for token {stop}")
            page = self.free_pages.pop()
            self.block_tables[slot, len(self.owned[slot])] = page
            self.owned[slot].append(page)
        for position in range(start, stop):
            page = self.owned[slot][position // size]
            self.pages[page, position % size] = tokens[position - start].to(self.config.dtype)
        self._set_length(slot, stop)

    def truncate(self, slot: int, length: int) -> None:
        """Forgets the tokens from `length` on, such as rejected drafts. Pages go back, their memory stays junk."""
        needed = -(-length // self.config.page_size)
        while len(self.owned[slot]) > needed:
            self.free_pages.append(self.owned[slot].pop())
            self.block_tables[slot, len(self.owned[slot])] = -1
        self._set_length(slot, length)

    def _set_length(self, slot: int, length: int) -> None:
        self.lengths[slot] = length
        self.seq_lens[slot] = length


class DecodeStep:
    """Attention of one step with `tokens` query tokens per request, in memory that is allocated once.

    On a GPU the step is captured in a CUDA graph and replayed. What changes between steps (query, lengths,
    tables, cache) is read on the device, so one capture serves all of them, whatever the lengths are by then.
    """

    def __init__(self, config: EngineConfig, cache: PagedCache, tokens: int):
        batch, heads, device = config.max_batch, config.num_heads, config.device
        self.query = torch.zeros(batch, tokens, heads, HEAD_DIM, dtype=config.dtype, device=device)
        self.out = torch.empty(batch, tokens, heads, LATENT_DIM, dtype=OUTPUT_DTYPES[config.dtype], device=device)
        self.lse = torch.empty(batch, tokens, heads, dtype=torch.float32, device=device)
        # One step's launches are ordered, so one workspace serves all steps of a stream.
        self.workspace = torch.empty(workspace_bytes(device), dtype=torch.uint8, device=device)
        self.config, self.cache = config, cache
        self.replay: Callable[[], None] = self.run
        if config.is_captured:
            self.replay = self.capture()

    def run(self) -> None:
        """The captured part: launches only; no allocation, no synchronisation, no compilation."""
        mla_decode(
            self.query, self.cache.pages, self.cache.block_tables, self.cache.seq_lens, out=self.out, return_lse=True,
            lse=self.lse, workspace=self.workspace, softmax_scale=self.config.softmax_scale,
            backend=self.config.backend,
        )  # fmt: skip

    def capture(self) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        return graph.replay

    def __call__(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`query` [max_batch, tokens, heads, 576]; the results are overwritten by the next step."""
        self.query.copy_(query)
        self.replay()
        return self.out, self.lse


class MlaDecodeBackend:
    """What an engine holds: the cache, a plain decode step and a verify step."""

    def __init__(self, config: EngineConfig):
        self.config = config
        if config.is_captured or config.backend == "emulator":
            shapes = ServerShapes(
                config.dtype, config.num_heads, config.page_size, seq_lens_q=(1, config.verify_tokens), lse_bases=("e",)
            )
            warm_up(shapes, config.device)
        self.cache = PagedCache(config)
        self.decode_step = DecodeStep(config, self.cache, 1)
        self.verify_step = DecodeStep(config, self.cache, config.verify_tokens)

    def decode(self, query: torch.Tensor, new_tokens: dict[int, torch.Tensor]) -> torch.Tensor:
        """One token per request. `new_tokens`: slot -> its cache entry [1, 576]. Returns [max_batch, 1, H, 512]."""
        return self._step(self.decode_step, query, new_tokens)

    def verify(self, query: torch.Tensor, new_tokens: dict[int, torch.Tensor]) -> torch.Tensor:
        """The known token and its drafts at once: each sees the ones before it.

        `new_tokens`: slot -> [1 + drafts, 576]. Returns [max_batch, 1 + drafts, H, 512], 0 in slots without a request.
        """
        return self._step(self.verify_step, query, new_tokens)

    def accept(self, accepted: dict[int, int]) -> None:
        """After `verify`: slot -> how many of its 1 + drafts tokens stay in the cache."""
        for slot, count in accepted.items():
            self.cache.truncate(slot, self.cache.lengths[slot] - self.config.verify_tokens + count)

    def _step(self, step: DecodeStep, query: torch.Tensor, new_tokens: dict[int, torch.Tensor]) -> torch.Tensor:
        for slot, tokens in new_tokens.items():
            self.cache.append(slot, tokens)
        return step(query)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(prog="python -m wrappers.examples.engine")
    parser.add_argument("--backend", choices=("auto", "cute", "emulator", "torch"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    try:
        device = torch.empty(0, device=options.device).device
        if options.backend == "cute":
            device_arch(device)
        if options.backend == "emulator" and device.type != "cpu":
            raise ValueError(f"--device {device}: --backend emulator takes cpu")
    except (ValueError, RuntimeError, AssertionError) as error:
        parser.error(str(error).splitlines()[0])
    config = EngineConfig(num_heads=4, num_pages=32, max_batch=3, device=options.device, backend=options.backend)
    backend = MlaDecodeBackend(config)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, HEAD_DIM, generator=generator).to(config.device)

    for slot, prompt in enumerate((100, 7)):  # the third slot stays empty, as in a padded batch
        backend.cache.append(slot, random(prompt))
    for step in range(3):
        drafts = {slot: random(config.verify_tokens) for slot in (0, 1)}
        out = backend.verify(random(config.max_batch, config.verify_tokens, config.num_heads), drafts)
        backend.accept({0: 2, 1: 4})
        print(f"step {step}: lengths {backend.cache.lengths}, mean |out| {out.float().abs().mean((1, 2, 3)).tolist()}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
