"""Problems, hostile inputs and tolerances for whoever checks an MLA decode: tests, validation, benchmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch

from mla.config import HEAD_DIM, LATENT_DIM
from wrappers import validate
from wrappers.call import OUTPUT_DTYPES, DecodeCall
from wrappers.reference import (
    gather_tokens,
    keys_of_rank,
    mla_decode_reference,
    tokens_of_requests,
    visible_keys,
)

# Unit-normal queries and keys then have unit-variance scores.
DEFAULT_SCALE = HEAD_DIM**-0.5
# What unused block-table entries hold: a sentinel in common use, page ids far outside any cache, both int32 ends.
ABSURD_PAGES = (-1, 2147480000, -2147483648, 2147483647)
# Unused table entries behind the longest request's last page.
SPARE_TABLE_ENTRIES = 3
# The kernel's exp2 and log2 are approximate (2 ulp and 2^-22, PTX ISA) and its scores are fp32 sums of 576 products.
LSE_TOLERANCE = 2e-4
# log2 of what the kernel multiplies probabilities by before it rounds them: e4m3 has 2^-9 .. 448 for them.
PROBS_SCALE_LOG2 = {torch.bfloat16: 0, torch.float16: 0, torch.float8_e4m3fn: 8}
# Of a problem, what no result depends on.
KERNEL_OPTIONS = ("max_seq_len_q", "isolate_drafts")
# Largest relative error of rounding an output to nearest.
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12, torch.float8_e4m3fn: 2.0**-4}


@dataclass(frozen=True)
class MlaProblem:
    """Inputs of one call: query [B, Q, H, 576], kv_cache 3D or 4D, block_tables [B, W] int32, seq_lens [B] int32.

    Ragged: query [total_q, H, 576], cu_seqlens_q [B + 1] int32. Tree: tree_mask bool [B, Q, Q] or [total_q, Q].
    local_visible_lens: int32 [B, Q] or [total_q].
    """

    query: torch.Tensor
    kv_cache: torch.Tensor
    block_tables: torch.Tensor
    seq_lens: torch.Tensor
    softmax_scale: float | torch.Tensor = DEFAULT_SCALE
    output_scale: float | torch.Tensor = 1.0
    is_causal: bool = True
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
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.query, self.kv_cache, self.block_tables, self.seq_lens

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments of `mla_decode`; those that say nothing are left out."""
        always = ("softmax_scale", "output_scale", "is_causal")
        others = [field for field in fields(self)[4:] if field.name not in always]
        given = [field.name for field in others if getattr(self, field.name) is not field.default]
        return {name: getattr(self, name) for name in (*always, *given)}

    @property
    def out_dtype(self) -> torch.dtype:
        return OUTPUT_DTYPES[self.query.dtype]

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.query.shape[:-1], LATENT_DIM)

    def decode_call(self, *, return_lse: bool = True, workspace: torch.Tensor | None = None) -> DecodeCall:
        """The checked call with new outputs on the problem's device, NaN, and base e, for a backend to run."""
        out = torch.full(self.out_shape, math.nan, device=self.query.device).to(self.out_dtype)
        lse = torch.full(self.out_shape[:-1], math.nan, device=self.query.device) if return_lse else None
        written = {"out": out, "return_lse": return_lse, "lse": lse, "workspace": workspace}
        return validate.checked(DecodeCall(*self.tensors, **self.options, **written))

    def reference(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
        """`(out, lse)` of the brute-force reference, lse base e."""
        options = {name: value for name, value in self.options.items() if name not in KERNEL_OPTIONS}
        return mla_decode_reference(*self.tensors, **options, dtype=dtype)

    def requests(self) -> Iterator[tuple[int | slice, int, list[list[int]]]]:
        """Per request: index of its tokens in the query's first dimension, keys in its cache, and for each token which
        of these it sees, by the reference's rule.
        """
        lengths = self.seq_lens.tolist()
        for request, tokens in enumerate(tokens_of_requests(self.query, self.cu_seqlens_q)):
            held = keys_of_rank(lengths[request], self.dcp_world, self.dcp_rank, self.dcp_interleave)
            num_tokens, seen = len(self.query[tokens]), []
            for token in range(num_tokens):
                tree_row = None if self.tree_mask is None else self.tree_mask[tokens][token].tolist()
                length = None if self.local_visible_lens is None else int(self.local_visible_lens[tokens][token])
                rule = self.is_causal, tree_row, self.window_left, length
                visible = set(visible_keys(token, num_tokens, lengths[request], *rule))
                seen.append([local for local, key in enumerate(held) if key in visible])
            yield tokens, len(held), seen

    def active_rows(self) -> torch.Tensor:
        """Rows that see at least one key, bool, the query's shape without the last dimension."""
        active = torch.zeros(self.query.shape[:-1], dtype=torch.bool, device=self.query.device)
        for tokens, _, seen in self.requests():
            for token, keys in enumerate(seen):
                active[tokens][token] = bool(keys)
        return active

    def to(self, device: torch.device | str) -> MlaProblem:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **moved)


def make_problem(
    batch: int,
    num_heads: int,
    seq_len_q: int,
    kv_len: int | Sequence[int],
    *,
    page_size: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    is_causal: bool = True,
    seed: int = 0,
    softmax_scale: float = DEFAULT_SCALE,
    output_scale: float = 1.0,
    value_mean: float = 0.0,
    cache_rank: int = 3,
    strided: bool = False,
    hostile: bool = True,
    query_lens: Sequence[int] | None = None,
    tree: bool = False,
    window_left: int | None = None,
    visible_lens: bool = False,
) -> MlaProblem:
    """A random problem; `kv_len` is one length for all requests or a length per request.

    `query_lens`, a number of query tokens per request of at most `seq_len_q`, makes the query ragged. `tree` gives
    every query token a parent among the earlier ones, or none, and has it see itself and its ancestors; a few see no
    query token at all. `visible_lens` gives every query token a length of its own (`random_lengths`).

    Queries and keys are unit normal before rounding, so the scores have standard deviation
    `softmax_scale / DEFAULT_SCALE`; `value_mean` is added to the latent part, which moves all scores of a row alike.

    Hostile (the default) means that everything the contract allows to be junk is junk: pages are shuffled, unused
    slots and pages hold NaN or Inf (e4m3 has only NaN), unused table entries hold `ABSURD_PAGES`, the table
    is wider than needed, and query rows that see no key are NaN. Keys that no token of the request sees are NaN, and
    pages of nothing else count as unused. `strided` makes query and cache views into wider
    NaN-filled memory.
    """
    lengths = [kv_len] * batch if isinstance(kv_len, int) else list(kv_len)
    if len(lengths) != batch:
        raise ValueError(f"kv_len has {len(lengths)} lengths: must be one or batch={batch}")
    generator = torch.Generator().manual_seed(seed)
    pages_of = [-(-length // page_size) for length in lengths]
    num_pages = sum(pages_of) + 2
    order = torch.randperm(num_pages, generator=generator) if hostile else torch.arange(num_pages)
    cache = torch.empty(num_pages, page_size, HEAD_DIM, dtype=dtype)
    junk = (math.nan, math.nan if dtype == torch.float8_e4m3fn else math.inf)
    cache[0::2], cache[1::2] = junk if hostile else (0.0, 0.0)
    table = torch.zeros(batch, max(pages_of) + SPARE_TABLE_ENTRIES, dtype=torch.int32)
    if hostile:
        absurd = torch.tensor(ABSURD_PAGES, dtype=torch.int32)
        table = absurd[torch.arange(table.numel()) % len(absurd)].view_as(table)
    taken = 0
    for request, (length, count) in enumerate(zip(lengths, pages_of)):
        ids = order[taken : taken + count]
        taken += count
        table[request, :count] = ids.int()
        kv = torch.randn(length, HEAD_DIM, generator=generator)
        kv[:, :LATENT_DIM] += value_mean
        kv = kv.to(dtype)
        for index, page in enumerate(ids.tolist()):
            part = kv[index * page_size : (index + 1) * page_size]
            cache[page, : len(part)] = part
    tokens = (batch, seq_len_q) if query_lens is None else (sum(query_lens),)
    query = torch.randn(*tokens, num_heads, HEAD_DIM, generator=generator).to(dtype)
    modes = {}
    if query_lens is not None:
        starts = torch.tensor([0, *query_lens]).cumsum(0).int()
        modes |= {"cu_seqlens_q": starts, "max_seq_len_q": seq_len_q}
    if tree:
        trees = random_trees(query_lens or [seq_len_q] * batch, seq_len_q, generator)
        modes["tree_mask"] = trees.view(*tokens, seq_len_q)
    if visible_lens:
        lens = random_lengths(lengths, query_lens or [seq_len_q] * batch, generator)
        modes["local_visible_lens"] = lens.view(tokens)
    if strided:
        query, cache = widen(query), widen(cache)
    if cache_rank == 4:
        cache = cache.unsqueeze(1)
    problem = MlaProblem(
        query, cache, table, torch.tensor(lengths, dtype=torch.int32),
        softmax_scale, output_scale, is_causal, window_left=window_left,
        **modes,
    )  # fmt: skip
    if hostile:
        hide_unseen(problem)
        # By way of fp32: torch fills no selection of e4m3 elements.
        query.copy_(query.float().masked_fill(~problem.active_rows()[..., None], math.nan))
    return problem


def random_lengths(lengths: Sequence[int], query_lens: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Int32 [sum(query_lens)]: keys that each token sees of its request's, in no order: a third of the tokens any
    number, a third one of the last few, a third all or none.
    """
    seen = []
    for length, count in zip(lengths, query_lens):
        any_number = torch.randint(0, length + 1, (count,), generator=generator)
        last_few = length - torch.randint(0, min(length, 5) + 1, (count,), generator=generator)
        ends = length * torch.randint(0, 2, (count,), generator=generator)
        kind = torch.randint(0, 3, (count,), generator=generator)
        seen.append(torch.stack((any_number, last_few, ends)).gather(0, kind[None])[0])
    return torch.cat(seen).int()


def hide_unseen(problem: MlaProblem) -> None:
    """NaN for keys that a window or visible lengths hide from all tokens of their request, and absurd table entries for
    pages of nothing else."""
    if problem.window_left is None and problem.local_visible_lens is None:
        return
    cache = problem.kv_cache.squeeze(1) if problem.kv_cache.dim() == 4 else problem.kv_cache
    page_size, nan = cache.shape[1], torch.full((HEAD_DIM,), math.nan).to(cache.dtype)
    for request, (_, held, seen) in enumerate(problem.requests()):
        if not seen and problem.window_left is not None:
            continue  # a request without tokens has no window
        seen_keys = [key for keys in seen for key in keys]
        first, end = min(seen_keys, default=held), max(seen_keys, default=-1) + 1
        table = problem.block_tables[request]
        for key in (*range(first), *range(end, held)):
            if 0 <= table[key // page_size] < len(cache):
                cache[table[key // page_size], key % page_size] = nan
        for page in range(-(-held // page_size)):
            if (page + 1) * page_size <= first or page * page_size >= end:
                table[page] = ABSURD_PAGES[page % len(ABSURD_PAGES)]


def random_trees(query_lens: Sequence[int], width: int, generator: torch.Generator) -> torch.Tensor:
    """Bool [sum(query_lens), width]: row of token t, column of token u of the same request; t sees u.

    Columns from the request's number of tokens on are junk, set for every other token.
    """
    rows = []
    for count in query_lens:
        seen = torch.zeros(count, width, dtype=torch.bool)
        for token in range(count):
            choice = int(torch.randint(-2, max(token, 1), (1,), generator=generator))
            if choice >= 0 and token:
                seen[token] = seen[choice]
            seen[token, token] = choice > -2
            seen[token, count:] = bool(token % 2)
        rows.append(seen)
    return torch.cat(rows)


def shard(problem: MlaProblem, world: int, rank: int, interleave: int, page_size: int = 16) -> MlaProblem:
    """What rank `rank` of `world` is given of an unsplit problem: its keys in a hostile cache of its own."""
    lengths = problem.seq_lens.tolist()
    held = [keys_of_rank(length, world, rank, interleave) for length in lengths]
    own = make_problem(
        len(lengths), 1, 1, [len(keys) for keys in held], page_size=page_size, dtype=problem.query.dtype, seed=rank
    )
    for request, keys in enumerate(held):
        kv = gather_tokens(problem.kv_cache, problem.block_tables[request], lengths[request])
        for local, key in enumerate(keys):
            own.kv_cache[own.block_tables[request, local // page_size], local % page_size] = kv[key]
    part = replace(
        problem, kv_cache=own.kv_cache, block_tables=own.block_tables,
        dcp_world=world, dcp_rank=rank, dcp_interleave=interleave,
    )  # fmt: skip
    hide_unseen(part)
    return part


def widen(tensor: torch.Tensor, pad: int = 64) -> torch.Tensor:
    """The same values as a view whose every stride is larger than compact; the memory between rows is NaN."""
    wide = tensor.new_full((*(size + 1 for size in tensor.shape[:-1]), tensor.shape[-1] + pad), math.nan)
    view = wide[tuple(slice(size) for size in tensor.shape)]
    view.copy_(tensor)
    return view


def baseline_output(
    problem: MlaProblem, probs_scale_log2: int | None = None, out_dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(out in the kernel's output dtype or in `out_dtype`, lse float32)` of torch doing the kernel's roundings only.

    Scores and softmax are fp32; P, scaled by a power of two (`probs_scale_log2`, by default the kernel's), is rounded
    to the input dtype before P @ V while the row sum adds the unrounded values; the accumulator is fp32 and the
    output is rounded once. What is left of a kernel's error above this baseline is the kernel's own.
    """
    query, dtype = problem.query, problem.query.dtype
    probs_scale = 2.0 ** (PROBS_SCALE_LOG2[dtype] if probs_scale_log2 is None else probs_scale_log2)
    out = torch.zeros(problem.out_shape, dtype=out_dtype or problem.out_dtype)
    lse = torch.full(query.shape[:-1], -math.inf)
    for request, (tokens, num_keys, seen) in enumerate(problem.requests()):
        cached = gather_tokens(problem.kv_cache, problem.block_tables[request], num_keys).float()
        for token, keys in enumerate(seen):
            if not keys:
                continue
            kv = cached[keys]
            scores = float(problem.softmax_scale) * (query[tokens][token].float() @ kv.T)
            row_max = scores.amax(dim=-1, keepdim=True)
            probabilities = torch.exp(scores - row_max) * probs_scale
            row_sum = probabilities.sum(dim=-1, keepdim=True)
            latent = probabilities.to(dtype).float() @ kv[:, :LATENT_DIM]
            out[tokens][token] = (latent * (float(problem.output_scale) / row_sum)).to(out.dtype)
            lse[tokens][token] = (row_max + torch.log(row_sum / probs_scale)).squeeze(-1)
    return out, lse


def snr_db(out: torch.Tensor, reference: torch.Tensor, rows: torch.Tensor) -> float:
    """Signal-to-noise ratio over `rows`: 10 log10(sum ref^2 / sum (out - ref)^2), in dB.

    rows: bool, the output's shape without its last dimension.

    +inf for an exact output, -inf for one that holds a NaN or Inf, +inf where no row is active.
    """
    signal = reference[rows].double()
    return _ratio_db(float(signal.square().sum()), float((out[rows].double() - signal).square().sum()))


def _ratio_db(signal: float, noise: float) -> float:
    """Of powers; a noise that is NaN or infinite is that of an output which holds such an element."""
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def _errors(out: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(largest absolute error, sum of squared errors) of each row, fp64, the output's shape without its last dimension."""
    difference = out.double() - reference
    return difference.abs().amax(dim=-1), difference.square_().sum(dim=-1)


@dataclass(frozen=True)
class Comparison:
    """How far an output is from the fp64 reference. `faults` says in words what is out of tolerance; empty is good."""

    snr_db: float
    baseline_snr_db: float
    max_abs_err: float
    lse_max_abs_err: float
    faults: tuple[str, ...]


def compare(problem: MlaProblem, out: torch.Tensor, lse: torch.Tensor | None = None) -> Comparison:
    """Judges an output (and log-sum-exp, base e) of `problem` against the fp64 reference.

    Rows that see no key must be exactly 0 with lse -inf. Every other row is judged alone, so one wrong row in a large
    batch cannot hide in a mean: its largest error may be twice the baseline's plus two roundings of its largest
    element. All of them together may have twice the baseline's noise power plus a tenth of a rounding's, so a small
    error of every row shows. The lse may be off by `LSE_TOLERANCE` (relative above 1).
    """
    out, lse = out.cpu(), None if lse is None else lse.cpu()
    problem = problem.to("cpu")
    reference, reference_lse = problem.reference()
    baseline, _ = baseline_output(problem, out_dtype=out.dtype)
    active = problem.active_rows()
    faults = []
    row_error, row_noise = _errors(out, reference)
    baseline_error, row_baseline_noise = _errors(baseline, reference)
    row_signal = reference.square().sum(dim=-1)
    allowed = 2.0 * baseline_error + 2.0 * UNIT_ROUNDOFF[out.dtype] * reference.abs().amax(dim=-1)
    # `not (a <= b)` rather than `a > b`: a NaN must count as wrong.
    wrong = active & ~(row_error <= allowed)
    if wrong.any():
        faults.append(f"out: {describe_rows(wrong)} off by up to {float(row_error[wrong].max()):.3g}")
    powers = (float(of_rows[active].sum()) for of_rows in (row_noise, row_baseline_noise, row_signal))
    noise, baseline_noise, signal = powers
    allowed_noise = 2.0 * baseline_noise + 0.1 * UNIT_ROUNDOFF[out.dtype] ** 2 * signal
    if noise > allowed_noise:
        faults.append(f"out: noise power {noise:.3g} over all rows, at most {allowed_noise:.3g} allowed")
    nonzero = ~active & ~(out == 0).all(dim=-1)
    if nonzero.any():
        faults.append(f"out: {describe_rows(nonzero)} see no key and are not 0")
    lse_error = 0.0
    if lse is not None:
        difference = (lse.double() - reference_lse).abs()
        wrong = active & ~(difference <= LSE_TOLERANCE * reference_lse.abs().clamp(min=1.0))
        lse_error = float(difference[active].max()) if active.any() else 0.0
        if wrong.any():
            faults.append(f"lse: {describe_rows(wrong)} off by up to {float(difference[wrong].max()):.3g}")
        finite = ~active & (lse != -math.inf)
        if finite.any():
            faults.append(f"lse: {describe_rows(finite)} see no key and are not -inf")
    return Comparison(
        _ratio_db(signal, noise),
        _ratio_db(signal, baseline_noise),
        float(row_error[active].max()) if active.any() else 0.0,
        lse_error,
        tuple(faults),
    )


def assert_matches(problem: MlaProblem, out: torch.Tensor, lse: torch.Tensor | None = None) -> None:
    """AssertionError with every fault that `compare` finds."""
    faults = compare(problem, out, lse).faults
    if faults:
        raise AssertionError("; ".join(faults))


def describe_rows(rows: torch.Tensor) -> str:
    """Count and first member of a [B, Q, H] or [total_q, H] selection, for messages."""
    names = ("request", "token", "head")[-rows.dim() :]
    first = ", ".join(f"{name} {index}" for name, index in zip(names, rows.nonzero()[0].tolist()))
    return f"{int(rows.sum())} of {rows.numel()} rows (first: {first})"
