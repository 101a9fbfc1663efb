"""`python -m ptx_emulator check`: hazards, by root cause, and what is suppressed."""


def test_a_right_kernel(command):
    status, out, _ = command("check")
    assert (status, out) == (0, "1 schedule: no hazards\n")


def test_a_missing_barrier(command):
    status, out, _ = command("check", "sync='bar.warp.sync 0xffffffff;'", "--orders", "in_order,random")
    assert status == 1
    assert "error [race] smem+" in out and "st.shared.b32 [%r3], %r0" in out and "no barrier (arrive, then wait)" in out
    assert "3 schedules: " in out and "in_order: wrong: not reversed" in out


def test_json_names_the_pairs_once(command):
    sync = "sync='bar.warp.sync 0xffffffff;'"
    (status, once), (_, twice) = (
        command.json("check", sync),
        command.json("check", sync, "--orders", "in_order,in_order"),
    )
    assert status == 1 and len(twice["schedules"]) == 2
    assert {group["kind"] for group in once["groups"]} >= {"race"}
    assert [group["pairs"] for group in once["groups"]] == [group["pairs"] for group in twice["groups"]]


def test_what_is_suppressed_is_no_finding(command, tmp_path):
    rules = tmp_path / "known.ini"
    rules.write_text("[race known]\ntext = *shared*\nreason = a test\n[uninitialised known]\nreason = a test\n")
    status, found = command.json("check", "sync='bar.warp.sync 0xffffffff;'", "--suppress", str(rules))
    assert found["groups"] == []
    assert status == 1 and found["schedules"][0]["verdict"] == "wrong: not reversed"
