"""The example engine: verifying drafts in one step gives what decoding them one by one gives."""

from __future__ import annotations

import sys

import pytest
import torch

from wrappers.decode import mla_decode
from wrappers.examples import engine
from wrappers.examples.engine import EngineConfig, MlaDecodeBackend
from wrappers.reference import mla_decode_reference

SLOTS = {0: 40, 2: 15}  # slot -> prompt tokens; slot 1 stays empty


@pytest.fixture(params=["torch", "emulator", pytest.param("cute", marks=pytest.mark.device)])
def config(request):
    return EngineConfig(
        num_heads=16, num_pages=12, page_size=16, max_batch=3, max_pages_per_request=6, num_drafts=2,
        device="cuda" if request.param == "cute" else "cpu", backend=request.param,
    )  # fmt: skip


def tokens(config, *shape, seed=0):
    values = torch.randn(*shape, 576, generator=torch.Generator().manual_seed(seed))
    return values.to(config.device, config.dtype)


def prefilled(config):
    backend = MlaDecodeBackend(config)
    for slot, length in SLOTS.items():
        backend.cache.append(slot, tokens(config, length, seed=slot))
    return backend


def test_verifying_is_decoding_one_by_one(config):
    together, alone = prefilled(config), prefilled(config)
    query = tokens(config, 3, 3, 16, seed=7)
    drafts = {slot: tokens(config, 3, seed=20 + slot) for slot in SLOTS}
    verified = together.verify(query, drafts).clone()
    for token in range(3):
        step = alone.decode(query[:, token : token + 1], {slot: drafts[slot][token : token + 1] for slot in SLOTS})
        torch.testing.assert_close(step[:, 0], verified[:, token], rtol=2e-2, atol=2e-2)
    assert not verified[1].any(), "the empty slot"
    # The same comparison fails where a token sees the drafts behind it.
    cache = together.cache
    dense = mla_decode(
        query, cache.pages, cache.block_tables, cache.seq_lens, softmax_scale=config.softmax_scale, is_causal=False
    )
    assert not torch.allclose(dense[2, 0], verified[2, 0], rtol=0.1, atol=0.1)


def test_steps_are_right_after_rejected_drafts(config):
    """Lengths, pages given back and taken anew, junk left behind: against the reference, on the cache as it is."""
    backend = prefilled(config)
    kept = {slot: [tokens(config, length, seed=slot)] for slot, length in SLOTS.items()}
    for step, accepted in enumerate(({0: 1, 2: 3}, {0: 3, 2: 1}, {0: 2, 2: 2})):
        drafts = {slot: tokens(config, 3, seed=100 + 10 * step + slot) for slot in SLOTS}
        query = tokens(config, 3, 3, 16, seed=50 + step)
        out = backend.verify(query, drafts)
        expected, lse = mla_decode_reference(
            query, backend.cache.pages, backend.cache.block_tables, backend.cache.seq_lens,
            softmax_scale=config.softmax_scale,
        )  # fmt: skip
        torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(backend.verify_step.lse, lse, rtol=1e-3, atol=1e-3)
        backend.accept(accepted)
        for slot, count in accepted.items():
            kept[slot].append(drafts[slot][:count])
    for slot, parts in kept.items():
        expected = torch.cat(parts)
        assert backend.cache.lengths[slot] == len(expected) == backend.cache.seq_lens[slot]
        table = backend.cache.block_tables[slot].tolist()
        used = -(-len(expected) // 16)
        assert (-1 not in table[:used]) and set(table[used:]) == {-1}
        assert torch.equal(backend.cache.pages[table[:used]].flatten(0, 1)[: len(expected)], expected)


def test_pages_are_never_shared_and_run_out_with_an_error():
    backend = MlaDecodeBackend(EngineConfig(num_heads=1, num_pages=3, page_size=16, max_batch=2, backend="torch"))
    backend.cache.append(0, torch.zeros(17, 576))
    backend.cache.append(1, torch.zeros(16, 576))
    used = [*backend.cache.owned[0], *backend.cache.owned[1]]
    assert sorted(used) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="slot 1: no page is left for token 17"):
        backend.cache.append(1, torch.zeros(1, 576))
    backend.cache.truncate(0, 16)
    backend.cache.append(1, torch.zeros(1, 576))
    assert backend.cache.lengths == [16, 17]


def test_it_runs_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["engine", "--backend", "torch", "--device", "cpu"])
    engine.main()
    assert "step 2: lengths [106, 19, 0]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--backend", "cute", "--device", "cpu"],
            "query is on cpu: backend='cute' needs an SM100, SM103 or SM107 GPU",
        ),
        (["--device", "nothing"], "nothing"),
        (["--device", "meta", "--backend", "emulator"], "--device meta: --backend emulator takes cpu"),
    ],
)
def test_a_device_that_cannot_run_it_is_exit_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        engine.main(arguments)
    shown = capsys.readouterr()
    assert stopped.value.code == 2 and message in shown.err and shown.err.count("\n") == 1 and not shown.out
