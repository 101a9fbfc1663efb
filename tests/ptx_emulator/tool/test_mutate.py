"""`python -m ptx_emulator mutate`: the mutation score of any kernel."""


def test_the_only_barrier_is_needed(command):
    status, out, err = command("mutate", "--only", "bar.sync", "--seeds", "1")
    assert "| `bar.sync` | dropped | 1 | 1 by race |" in out
    assert "[1/2 " in err
    # All threads use the barrier, so its number does not matter: that mutant is the same kernel.
    assert status == 1 and "survived: line 18: bar.sync 0; (barrier 1)" in out


def test_nothing_survives_where_all_is_needed(command):
    sync = r"sync='setp.lt.u32 %p1, %r0, 32;\n@%p1 bar.sync 1, 64;\n@!%p1 bar.sync 1, 64;'"
    status, found = command.json("mutate", sync, "--only", "bar.sync", "--seeds", "1", "--orders", "random")
    assert (status, found["counts"]) == (0, {"detected": 4})
    assert all("ptx" not in row["mutant"] for row in found["mutants"])


def test_wrong_use(command):
    status, _, err = command("mutate", "sync='bar.warp.sync 0xffffffff;'")
    assert status == 2 and "the unchanged kernel is not clean (in_order)" in err
    status, _, err = command("mutate", "--only", "tcgen05")
    assert status == 2 and "only='tcgen05'" in err and "no synchronising instruction" in err
