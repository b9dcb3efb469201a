"""Ratios, tables, goals, and the page they go to."""

import json
import re

import pytest
from benchmarks.__main__ import main
from benchmarks._process import ROOT
from benchmarks._statistics import Spread, ratio, spread
from benchmarks._table import Goal, Table, goals_table, number, to_markdown, with_range
from benchmarks.contenders import CONTENDERS
from benchmarks.measures import MEASURES, dispatch, ensemble, loop, step

from benchmarks import _machine, _report

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_a_slow_moment_of_the_machine_is_not_in_the_ratio():
    # The machine was ten times slower in the second turn of the second round.
    floor = [[100.0, 100.0, 100.0], [100.0, 10.0, 100.0]]
    ours = [[90.0, 90.0, 90.0], [80.0, 8.0, 80.0]]
    assert ratio(ours, floor) == pytest.approx(Spread(0.85, 0.8, 0.9))


def test_a_round_counts_with_the_median_of_its_turns():
    assert ratio([[1.0, 9.0, 2.0]], [[1.0, 1.0, 1.0]]) == Spread(2.0, 2.0, 2.0)


def test_spread():
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (0.0, "0.00")]
)
def test_number(value, text):
    assert number(value) == text


def test_with_range_is_short_where_there_is_none():
    assert with_range(Spread(1.5, 1.0, 2.0)) == "1.50 (1.00-2.00)"
    assert with_range(Spread(1.5, 1.5, 1.501)) == "1.50"


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("a", 0.9, 0.9), True),
        (Goal("a", 0.89, 0.9), False),
        (Goal("a", 1.15, 1.15, at_least=False), True),
        (Goal("a", 1.16, 1.15, at_least=False), False),
    ],
)
def test_goals(goal, met):
    assert goal.met is met
    assert goals_table([goal]).rows[0][-1] == ("met" if met else "missed")


def test_markdown_escapes_what_would_end_a_cell():
    drawn = to_markdown(Table("T", ("", "x"), [("a|b", "1")], ["A note."]))
    assert drawn == "**T**\n\n|  | x |\n| :--- | ---: |\n| a\\|b | 1 |\n\nA note."


def entry(*rates, loss=1.0):
    return {"rates": [list(rates)], "loss_after": loss}


@pytest.fixture
def result():
    raced = {
        "contenders": {
            "floor": entry(1000.0, 1000.0),
            "floor-scan": entry(4000.0, 4000.0),
            "treadle-step": entry(950.0, 950.0),
            "treadle-fit": entry(800.0, 800.0),
            "treadle-fit-50": entry(3800.0, 3800.0),
            "equinox": entry(200.0, 200.0, loss=1.5),
        },
        "skipped": {"klax": "klax is not installed"},
    }
    data = {"configs": {"leafy": raced}}
    return {**_machine.describe(), "smoke": False, "benchmarks": {"dispatch": data, "loop": data}}


def test_race_table(result):
    (table,) = dispatch.tables(result["benchmarks"]["dispatch"])
    assert table.columns[:3] == ["contender", "steps/s", "÷ floor"]
    (row,) = [row for row in table.rows if row[0] == "equinox"]
    assert row[1:] == ["200", "0.20", "4.75", "1.5000"]
    assert table.notes == ["Skipped: klax (klax is not installed)."]


def test_race_goals(result):
    (goal,) = dispatch.goals(result["benchmarks"]["dispatch"])
    assert (goal.measured, goal.met) == (0.95, True)
    found = {goal.name: goal for goal in loop.goals(result["benchmarks"]["loop"])}
    assert not found["leafy: treadle-fit ÷ floor"].met
    assert found["leafy: treadle-fit-50 ÷ floor-scan"].met
    against = next(goal for name, goal in found.items() if "÷ equinox" in name)
    assert against.measured == 4.0
    assert against.name == "leafy: treadle-fit ÷ equinox (the floor: 5.00)"
    # Who is not there has no goals.
    assert not any("klax" in name for name in found)


def options_result(platform="cpu"):
    raced = {
        "contenders": {
            "floor": entry(1050.0, 1050.0),
            "floor-ema": entry(840.0, 840.0),
            "step-plain": entry(1000.0, 1000.0),
            "step-raise": entry(950.0, 950.0),
            "step-ema": entry(800.0, 800.0),
            "step-bf16": entry(500.0, 500.0, loss=1.1),
        },
        "skipped": {},
    }
    return {"configs": {"leafy": raced}, "platform": platform}


def test_options_table_and_goals():
    (table,) = step.tables(options_result())
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["step-raise"] == (
        '`nonfinite="raise"`, the default',
        "950",
        "1.05",
        "≤ 1.10",
        "1.0000",
    )
    assert rows["step-bf16"] == ('`precision="bf16"`', "500", "2.00", "", "1.1000")
    found = {goal.name: goal for goal in step.goals(options_result())}
    assert {name: goal.met for name, goal in found.items()} == {
        "leafy: time of step-raise ÷ step-plain": True,
        "leafy: time of step-ema ÷ step-plain (floor-ema ÷ floor: 1.25)": False,
    }
    assert next(goal for name, goal in found.items() if "step-ema" in name).measured == 1.25


def test_bfloat16_has_a_goal_where_the_machine_has_it():
    (goal,) = [goal for goal in step.goals(options_result("cuda")) if "bf16" in goal.name]
    assert (goal.bound, goal.measured, goal.met) == (1.0, 2.0, False)


def test_every_option_is_raced():
    assert step.PLAIN in step.OPTIONS
    assert {f"step-{name}" for name in ("raise", "skip", "ema", "fp16")} < set(step.OPTIONS)


def test_ensemble_table_and_goals():
    raced = {
        "contenders": {
            "floor-members": entry(10.0, 10.0),
            "floor-vmap": entry(60.0, 60.0),
            "equinox-members": entry(2.0, 2.0),
            "treadle-ensemble": entry(45.0, 45.0),
        },
        "skipped": {},
    }
    data = {"configs": {"small": raced}}
    (table,) = ensemble.tables(data)
    assert table.columns[1:4] == ["member-steps/s", "÷ floor-members", "÷ equinox-members"]
    # 32 members, each 45 steps a second.
    assert table.rows[-1] == ["treadle-ensemble", "1,440", "4.50", "22.5", "1.0000"]
    assert {goal.name: (goal.measured, goal.met) for goal in ensemble.goals(data)} == {
        "small: treadle-ensemble ÷ floor-members (floor-vmap: 6.00)": (4.5, False),
        "small: treadle-ensemble ÷ equinox-members (floor-vmap: 30.0)": (22.5, True),
    }


def test_the_page_is_renewed_between_its_marks_only(result, tmp_path):
    marks = [
        f"<!-- benchmarks: {n} -->old<!-- end of benchmarks: {n} -->"
        for n in ("contenders", "dispatch", "loop", "memory")
    ]
    page = tmp_path / "page.md"
    page.write_text("before " + " between ".join(marks) + " after")
    _report.into_docs(result, page)
    once = page.read_text()
    assert once.startswith("before ")
    assert once.endswith("<!-- benchmarks: memory -->old<!-- end of benchmarks: memory --> after")
    assert once.count("old") == 1
    assert "| equinox | 200 |" in once
    _report.into_docs(result, page)
    assert page.read_text() == once


def test_a_page_without_marks_is_told(result, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="must have one <!-- benchmarks: contenders -->"):
        _report.into_docs(result, page)


def test_what_has_a_page_of_its_own_goes_there(result, tmp_path):
    outcome = {
        "name": "a leaf is dropped",
        "right": False,
        "code": "()",
        "seconds_shrinking": 1.0,
        "rounds": [{"caught": True, "error": None, "examples": 3, "seconds": 0.5}],
    }
    data = {"laws": {"roundtrip": [outcome]}, "rounds": 1, "examples": 100}
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmarks: mutants -->old<!-- end of benchmarks: mutants -->")
    _report.into_docs({**result, "benchmarks": {"mutants": data}}, page)
    assert "| a leaf is dropped | 1 of 1 | 3 |" in page.read_text()
    assert "contender" not in page.read_text()
    # Beside others it is left to its own page.
    marks = [
        f"<!-- benchmarks: {n} --><!-- end of benchmarks: {n} -->"
        for n in ("contenders", "dispatch", "loop")
    ]
    page.write_text(" ".join(marks))
    everything = {**result["benchmarks"], "mutants": data}
    _report.into_docs({**result, "benchmarks": everything}, page)
    assert "a leaf is dropped" not in page.read_text()


def test_table_command_prints_markdown(result, tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert main(["table", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "**A loop over single steps: leafy**" in printed
    assert result["date"] in printed


def test_the_smallest_form_judges_nothing(result):
    titles = [table.title for table in _report.tables("loop", result)]
    assert titles[-1] == "Goals"
    result["smoke"] = True
    assert "Goals" not in [table.title for table in _report.tables("loop", result)]


def test_unknown_names_are_refused(capsys):
    assert main(["dispatch", "--only", "nobody", "--smoke"]) == 1
    assert "`--only` names nobody" in capsys.readouterr().out
    assert main(["dispatch", "--config", "nothing", "--smoke"]) == 1
    assert "`--config` names nothing" in capsys.readouterr().out


def test_description_has_machine_date_and_versions():
    described = _machine.describe()
    sentence = _machine.sentence(described)
    for part in (described["date"], "cores", "jax ", "equinox ", "treadle "):
        assert part in sentence


def test_the_pages_have_every_contender_and_every_measure():
    text = PAGE.read_text(encoding="utf-8")
    assert _report.contenders() in text
    for name in MEASURES:
        page = PAGE.with_name(_report.page_of(name)).read_text(encoding="utf-8")
        assert page.count(f"<!-- benchmarks: {name} -->") == 1
    assert all(f"| {name} |" in text for name in CONTENDERS)


@pytest.mark.parametrize("path", RESULTS[-1:], ids=lambda path: path.name)
def test_the_page_shows_the_newest_result(path, tmp_path):
    result = json.loads(path.read_text())
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    _report.into_docs(result, page)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert not re.search(r"/work|/tmp|/home", json.dumps(result))
