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


def test_wrong_arguments_are_exit_status_2(capsys, tmp_path):
    folder = str(tmp_path)
    for arguments, message in (
        (["--num-heads", "129"], "--num-heads: '129': must be an integer of 1..128"),
        (["--num-heads", "-3"], "--num-heads: '-3': must be an integer of 1..128"),
        (["--seq-len-q", "x"], "--seq-len-q: 'x': must be an integer of 1.."),
        (["--seq-len-q", "1,,2"], "--seq-len-q: '': must be an integer of 1.."),
        (["--export", "/proc/x"], "--export: '/proc/x': cannot be written"),
        (["--export", "/dev/null/x"], "--export: '/dev/null/x': cannot be written"),
        (["--load", folder, "--export", folder], "--export: not allowed with argument --load"),
        (["--load", "/nonexistent"], "error: /nonexistent: holds no exported kernels"),
    ):
        try:
            status = main(arguments)
        except SystemExit as stopped:
            status = stopped.code
        shown = capsys.readouterr()
        assert status == 2 and message in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert not list(tmp_path.iterdir())
