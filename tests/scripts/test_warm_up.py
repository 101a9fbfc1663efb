from __future__ import annotations

import re

from mla import compile as mla_compile
from mla import store
from scripts.warm_up import main

SHAPE = ["--num-heads", "2", "--page-size", "16", "--lse-base", "2"]


def new_process(monkeypatch):
    monkeypatch.setattr(mla_compile, "_compiled", {})


def test_the_second_start_is_fast(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    seconds = []
    for _ in range(2):
        new_process(monkeypatch)
        assert main(SHAPE) == 0
        shown = capsys.readouterr()
        assert "[1/1] 1 tokens, causal, lse base 2: " in shown.err
        seconds.append(float(re.fullmatch(r"1 kernels ready \(compile cache: .*\) in (\d+\.\d\d) s\n", shown.out)[1]))
    assert seconds[1] < seconds[0] / 3


def test_export_and_load(monkeypatch, tmp_path, capsys):
    folder = str(tmp_path / "kernels")
    assert main([*SHAPE, "--export", folder, "--arch", "sm_103a"]) == 0
    assert f"1 kernels compiled for sm_103a and written to {folder}" in capsys.readouterr().out
    new_process(monkeypatch)
    assert main(["--load", folder]) == 0
    assert f"1 kernels loaded from {folder}" in capsys.readouterr().out
    (config,) = mla_compile._compiled
    assert (config.arch, config.num_heads) == ("sm_103a", 2)


def test_errors_are_said(capsys):
    assert main(["--num-heads", "129"]) == 1
    assert "error: query.shape[2]=129" in capsys.readouterr().err
    assert main(["--load", "/nonexistent"]) == 1
    assert "error: /nonexistent: holds no exported kernels" in capsys.readouterr().err
