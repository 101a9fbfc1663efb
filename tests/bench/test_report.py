import json

import pytest

from bench import report


def written(tmp_path):
    """(file, reference): one workload at two clocks, one disputed constant, one relaxed resource; a peer."""
    row = {
        "workload": "w",
        "path": "wide",
        "hbm": 1.0,
        "mma": 0.5,
        "port": 0.8,
        "decode": 4.0,
        "merge": 1.0,
        "target": 9.0,
    }
    predictions = [{**row, "clock": clock, "total": total} for clock, total in ((1.93, 10.0), (1.5, 12.0))]
    variants = [
        {"kind": "disputed", "name": "tmem", "workload": "w", "clock": 1.93, "total": 11.0},
        {"kind": "relaxed", "name": "HBM", "workload": "w", "clock": 1.93, "total": 7.5},
    ]
    others = [
        {"kernel": "peer", "workload": "w", "clock": 1.93, "variant": "", "total": 15.0, "note": "tuned"},
        {"kernel": "peer", "workload": "w", "clock": 1.93, "variant": "tmem", "total": 22.0, "note": ""},
    ]
    paths = tmp_path / "found.json", tmp_path / "reference.json"
    paths[0].write_text(json.dumps({"predictions": predictions, "variants": variants}))
    paths[1].write_text(json.dumps({"rows": others}))
    return [str(path) for path in paths]


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]


def test_tables(tmp_path):
    found = report.read(*written(tmp_path))
    head, _, row = cells(report.totals_table(found))
    by_name = dict(zip(head, row, strict=True))
    assert by_name["total"] == "**10.0**"
    assert (by_name["peer"], by_name["peer / now"]) == ("15.0 tuned", "1.50")
    assert by_name["before"] == by_name["before / now"] == "-"
    assert cells(report.clocks_table(found))[2] == ["w", "10.0", "12.0"]  # the peer has no other clock
    assert cells(report.disputed_table(found))[2] == ["w", "10.0 (1.50)", "11.0 (2.00)"]
    assert cells(report.relaxed_table(found)) == [["twice as fast", "w"], ["---", "---"], ["HBM", "-25%"]]
    head, _, row = cells(report.users_table(found))
    by_name = dict(zip(head, row, strict=True))
    assert (by_name["total / target"], by_name["peer / now, 1.93 GHz"]) == ("1.11", "1.50")
    assert not any(title.endswith("1.5 GHz") for title in head), "the peer has no other clock"


def test_a_second_peer_has_columns_where_it_has_rows(tmp_path):
    file, reference = written(tmp_path)
    assert "flashinfer" not in report.totals_table(report.read(file, reference))
    rows = json.loads(open(reference).read())
    rows["rows"].append(
        {"kernel": "flashinfer", "workload": "w", "clock": 1.93, "variant": "", "total": 12.5, "note": "x"}
    )
    open(reference, "w").write(json.dumps(rows))
    head, _, row = cells(report.totals_table(report.read(file, reference)))
    by_name = dict(zip(head, row, strict=True))
    assert (by_name["flashinfer"], by_name["flashinfer / now"]) == ("12.5 x", "1.25")
    assert (by_name["peer"], by_name["peer / now"]) == ("15.0 tuned", "1.50")


def test_a_document_gets_its_tables_and_keeps_the_rest(tmp_path, capsys):
    file, reference = written(tmp_path)
    document = tmp_path / "doc.md"
    document.write_text("# A\n\n<!-- bench.report: relaxed -->\nold\n<!-- end -->\n\ntext <!-- end -->\n")
    for _ in range(2):  # it can be run again
        assert report.main([file, "--reference", reference, "--write", str(document)]) == 0
        text = document.read_text()
        assert "old" not in text and text.count("| HBM | -25% |") == 1
        assert text.startswith("# A\n\n<!-- bench.report: relaxed -->") and text.endswith("\n\ntext <!-- end -->\n")
    with pytest.raises(SystemExit):  # not the table that was asked for
        report.main([file, "--write", str(document), "--table", "clocks"])
    assert report.main([file, "--table", "clocks"]) == 0
    assert "12.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "has no line"),
        ("<!-- bench.report: total -->\n<!-- end -->", "total: must be one of totals, clocks"),
    ],
)
def test_a_document_without_a_place_is_named(tmp_path, text, message, capsys):
    file, _ = written(tmp_path)
    document = tmp_path / "doc.md"
    document.write_text(text)
    with pytest.raises(SystemExit):
        report.main([file, "--write", str(document)])
    assert message in capsys.readouterr().err
    assert document.read_text() == text


def test_another_file_is_refused(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(SystemExit):
        report.main([str(path)])
    assert "not what bench.predict --json writes" in capsys.readouterr().err
