"""What a compiled MLA decode kernel depends on: the frozen, hashable compile key and its constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mla.arch import ARCHS

DTYPES = ("bf16", "fp16", "fp8")
# The model's: what the plans of Tensor Memory and of shared memory are made for.
LATENT_DIM = 512
ROPE_DIM = 64
HEAD_DIM = LATENT_DIM + ROPE_DIM
MAX_HEADS = 128
PAGE_SIZES = (16, 32, 64, 128)
LSE_BASES = ("e", "2")
PATHS = ("auto", "narrow", "wide")
NARROW_ROWS = 64  # rows of a work unit on the narrow path
E4M3_MAX = 448.0
# Behaviour of the hardware that no public kernel known to be right depends on, by the rows of
# docs/silicon-assumptions.md (4, 5, 6), which a kernel can do without.
AVOIDABLE = ("small_boxes", "stores_over_tma", "nan_in_keys")
UNCUT_TILES = 2
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
FLOAT_BYTES = ELEMENT_BYTES["fp32"]
INT_BYTES = 4
TREE_WORD_BITS = 32  # query tokens to a word of a packed tree mask


@dataclass(frozen=True)
class MlaDecodeConfig:
    """Facts fixed at compile time; the whole object is the cache key.

    dtype:            "bf16", "fp16" or "fp8" (e4m3), of query and cache; of the output too, but see fp8_output.
    num_heads:        query heads, 1..128.
    seq_len_q:        query tokens per request, >= 1; the most that a request may have where ragged_query.
    is_causal:        True: query token t sees keys below K - (seq_len_q - 1) + t. False: all K keys.
    page_size:        tokens per cache page, 16, 32, 64 or 128.
    kv_lora_rank:     latent dimensions (both key and value), elements.
    qk_rope_head_dim: rotary dimensions (key only), elements.
    lse_base:         None (no LSE output), "e" or "2".
    query_packed:     the query's token stride is num_heads * its head stride, so that (token, head) is one
                      TMA mode and a row tile is loaded in boxes of 64 rows whatever num_heads is.
    softmax_scale_on_device, output_scale_on_device: the scale is a one-element fp32 tensor that the kernel reads, so
                      that a calibrated scale needs no host synchronisation; else a number.
    arch:             "sm_100a", "sm_103a" or, with the compiler's CUDA 13 build, "sm_107a".
    fp8_output:       with dtype "fp8": e4m3 output (rounded to nearest, saturating at 448) instead of bf16.
    path:             "narrow" (one CTA, 64 rows), "wide" (a pair of CTAs, 128 rows), or "auto": wide for requests of
                      more than 64 rows (seq_len_q * num_heads), whose keys the narrow path would load more than once.
                      Up to 64 rows wide is no faster. Modelled us, narrow / wide (bench.predict --path): bf16 h16 q4 16K
                      b8 29.2 / 32.1, h16 q1 2K b64 29.9 / 32.7, h32 q1 8K b32 49.5 / 53.3; fp8 h16 q4 80K b1 15.1 / 15.3.
    tree_mask:        the query tokens are a tree, whose mask the kernel reads; needs is_causal.
    dcp_world, dcp_interleave: decode context parallelism: of a request's keys, dcp_interleave neighbours lie on each of
                      dcp_world ranks in turn; the rank is an argument of the launch. seq_lens count all ranks' keys.
    ragged_query:     requests have any number of query tokens up to seq_len_q, read on the device: cu_seqlens_q.
    sliding_window:   query tokens see no key too far before their own; how far is an argument of the launch, so that all
                      windows of a model share a kernel.
    visible_lens:     every query token brings the number of keys that it sees, read on the device; needs is_causal
                      False, which these replace.
    rescale_threshold: by how much, in the log2 domain of scores, a row's maximum may grow before O is rescaled and its
                      probabilities are taken relative to the new one, 0 .. 8; until then they may exceed 1. 0: always.
                      Faster and less accurate (docs/accuracy.md).
    isolate_drafts:   a key that not all rows of a row tile see may hold NaN or Inf: it counts for rows that see it only.
                      Wide path only, where values lie apart from keys and may be changed.
    uncut_tiles:      see split_kv.Partition.of. Modelled us of ranges of at least 1 / 2 / 4 tiles (python -m bench.predict), of
                      narrow bf16 h16 q1: 10 requests of 2 tiles 12.0 / 9.6 / 14.8, 2 of 16 tiles 12.3 / 13.9 / 19.2; of
                      wide fp8 h128 q1: 8 of 2 tiles 11.6 / 10.4 / 16.2, 1 of 64 tiles 11.9 / 13.3 / 15.5.
    stages:           of the rings, as the tables of plan/paths.py have them, which hold where this is empty.
    avoid:            names of AVOIDABLE, what the kernel does without on machines where it does not hold:
                      small_boxes: TMA boxes of the query that do not start at multiples of a swizzle atom.
                      stores_over_tma: ordinary stores to rows that TMA has written, before the tensor core reads them;
                      TMA writes the zeros. nan_in_keys: anything but zeros in the rows of K that a row tile does not
                      read.
    """

    dtype: str
    num_heads: int
    seq_len_q: int
    is_causal: bool
    page_size: int
    kv_lora_rank: int = LATENT_DIM
    qk_rope_head_dim: int = ROPE_DIM
    lse_base: str | None = None
    query_packed: bool = True
    softmax_scale_on_device: bool = False
    output_scale_on_device: bool = False
    arch: str = "sm_100a"
    fp8_output: bool = False
    path: str = "auto"
    ragged_query: bool = False
    tree_mask: bool = False
    dcp_world: int = 1
    dcp_interleave: int = 1
    sliding_window: bool = False
    visible_lens: bool = False
    isolate_drafts: bool = False
    rescale_threshold: float = 0.0
    uncut_tiles: int = UNCUT_TILES
    stages: tuple[int, ...] = ()
    avoid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "avoid", tuple(sorted(set(self.avoid))))
        object.__setattr__(self, "stages", tuple(self.stages))  # a list in JSON
        validate(self)

    def avoids(self, *names: str) -> bool:
        """Whether the kernel does without any of these."""
        return bool({*names} & {*self.avoid})

    @property
    def head_dim(self) -> int:
        """Elements of a query row and of a cached token: latent, then rope."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def output_dtype(self) -> str:
        return "bf16" if self.dtype == "fp8" and not self.fp8_output else self.dtype

    @property
    def output_bytes(self) -> int:
        return ELEMENT_BYTES[self.output_dtype]

    @property
    def partial_dtype(self) -> str:
        """Of partial results: "fp32", or "fp16" where the values are e4m3, whose averages are at most 448 and have 4
        significant bits each.
        """
        return "fp16" if self.dtype == "fp8" else "fp32"

    @property
    def partial_bytes(self) -> int:
        return ELEMENT_BYTES[self.partial_dtype]

    @property
    def partial_scale_log2(self) -> int:
        """Partial results are stored times two to this power: 448 * 2^7 and what rounding adds stay below fp16's 65504,
        and small averages above its subnormal numbers.
        """
        return 7 if self.partial_dtype == "fp16" else 0

    @property
    def probs_scale_log2(self) -> int:
        """P is stored times two to this power, and so is its row sum. e4m3 resolves 2^-9 .. 448, so probabilities up
        to 1, or to what a rescale threshold allows, are moved to the upper end of its range; fp16 and bf16 need no help.
        """
        return math.floor(math.log2(E4M3_MAX) - self.rescale_threshold) if self.dtype == "fp8" else 0

    @property
    def num_rows(self) -> int:
        """Rows of one request, the most of any where ragged_query: row = token * num_heads + head."""
        return self.seq_len_q * self.num_heads

    @property
    def is_wide(self) -> bool:
        if self.path != "auto":
            return self.path == "wide"
        return self.num_rows > NARROW_ROWS or self.isolate_drafts

    def query_box_rows(self, cta_rows: int) -> int:
        """Rows per TMA box of the query: the largest count that never straddles two tokens."""
        return cta_rows if self.query_packed else math.gcd(self.num_heads, cta_rows)


def validate(config: MlaDecodeConfig) -> None:
    """The only list of what can be compiled. Raises ValueError naming field, value and what is allowed."""

    def require(ok: bool, field: str, allowed: str) -> None:
        if not ok:
            raise ValueError(f"{field}={getattr(config, field)!r}: must be {allowed}")

    def one_of(field: str, allowed: tuple[object, ...]) -> None:
        if getattr(config, field) not in allowed:
            require(False, field, f"one of {allowed}")

    one_of("dtype", DTYPES)
    require(1 <= config.num_heads <= MAX_HEADS, "num_heads", f"in 1..{MAX_HEADS}")
    require(config.seq_len_q >= 1, "seq_len_q", ">= 1")
    require(config.is_causal or not config.tree_mask, "is_causal", "True with tree_mask")
    require(config.dcp_world >= 1, "dcp_world", ">= 1")
    require(config.dcp_interleave >= 1, "dcp_interleave", ">= 1")
    require(config.dcp_world == 1 or not config.tree_mask, "dcp_world", "1 with tree_mask")
    require(not (config.sliding_window and config.tree_mask), "sliding_window", "False with tree_mask")
    replaced = config.is_causal or config.sliding_window or config.dcp_world > 1
    require(not (config.visible_lens and replaced), "visible_lens", "False with is_causal, sliding_window or dcp_world")
    one_of("page_size", PAGE_SIZES)
    require(config.kv_lora_rank == LATENT_DIM, "kv_lora_rank", f"{LATENT_DIM}, which the TMEM plans are made for")
    require(config.qk_rope_head_dim == ROPE_DIM, "qk_rope_head_dim", f"{ROPE_DIM}, one 128-byte swizzle span")
    require(config.lse_base in (None, *LSE_BASES), "lse_base", f"None or one of {LSE_BASES}")
    require(config.dtype == "fp8" or not config.fp8_output, "fp8_output", f"False for dtype={config.dtype!r}")
    one_of("path", PATHS)
    require(config.path != "narrow" or not config.isolate_drafts, "path", "'auto' or 'wide' with isolate_drafts")
    require(0 <= config.rescale_threshold <= 8, "rescale_threshold", "in 0..8")
    require(config.uncut_tiles >= 1, "uncut_tiles", ">= 1")
    require(len(config.stages) in (0, 4 if config.is_wide else 2), "stages", "2 numbers, 4 on the wide path, or none")
    require(set(config.avoid) <= set(AVOIDABLE), "avoid", f"names of {AVOIDABLE}")
    if config.avoids("small_boxes"):
        require(config.query_packed or config.num_heads % 8 == 0, "query_packed", "True with avoid=('small_boxes',)")
    if config.avoids("stores_over_tma"):
        require(not config.isolate_drafts, "isolate_drafts", "False with avoid=('stores_over_tma',)")
        ropes = config.dtype != "fp8" or not config.avoids("nan_in_keys")  # of 64 bytes, where no box can start
        require(ropes, "dtype", "'bf16' or 'fp16' with avoid=('nan_in_keys', 'stores_over_tma')")
    one_of("arch", ARCHS)
