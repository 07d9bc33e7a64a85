"""The study: grids that say what is run, runs that are not repeated, a page that its records bear out."""

import json

import pytest
import study
from conftest import TINY
from study_grid import FOLDER, cells, read_grid, trainings
from study_page import differences, write_page

from mimzoo.errors import DataError
from mimzoo.runs import begin_run

GRID = """
title = "A question"
data = "phantoms"
selection = 1
seeds = [0, 1]
rows = [{name = "scratch"}, {name = "MAE", from = "mae", against = "scratch"}]
columns = [{name = "2 labels", labelled = 2}, {name = "all labels"}]
pretrain.mae = {card = "vit-mae-phantom", set = ["pretraining.steps=6"]}
finetune = {card = "vit-mae-phantom-seg", set = ["finetuning.steps=6"]}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder of grids as docs/study, with one of eight fine-tunings and a pretraining."""
    place = tmp_path / "study"
    (place / "records").mkdir(parents=True)
    (place / "head.md").write_text("# A study\n")
    (place / "grid.toml").write_text(GRID)
    return place


def changed(folder, old, new):
    text = (folder / "grid.toml").read_text()
    assert old in text
    (folder / "grid.toml").write_text(text.replace(old, new))
    return read_grid(folder / "grid.toml")


# --- grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_is_its_rows_times_columns_times_seeds_after_the_pretraining_they_share(folder):
    grid = read_grid(folder / "grid.toml")
    found = trainings(grid)
    assert [one.verb for one in found].count("pretrain") == 1 and len(found) == 9
    assert len({one.name for one in found}) == 9
    for one in found:
        assert one.start is None or found.index(one.start) < found.index(one)
    command = next(cell for cell in cells(grid) if (cell.row, cell.column, cell.seed) == ("MAE", "2 labels", 1))
    words = " ".join(command.training.command())
    assert f"--from ./runs/{command.training.start.name} --labelled 2 --seed 1" in words
    assert words.endswith("--set finetuning.steps=6")


def test_a_training_is_known_by_what_decides_its_result(folder):
    before = {(c.row, c.column, c.seed): c.training.name for c in cells(read_grid(folder / "grid.toml"))}
    after = changed(folder, "pretraining.steps=6", "pretraining.steps=8")
    for cell in cells(after):
        same = before[cell.row, cell.column, cell.seed] == cell.training.name
        assert same == (cell.row == "scratch"), "only what begins from the pretraining is another run"
    # What is said twice, or said as it is anyway, changes nothing.
    grid = changed(folder, '["finetuning.steps=6"]', '["finetuning.steps=4", "finetuning.steps=6"]')
    names = {cell.training.name for cell in cells(grid) if cell.row == "scratch"}
    assert names == {name for (row, _, _), name in before.items() if row == "scratch"}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('against = "scratch"', 'against = "scratsh"', "held against 'scratsh'; did you mean 'scratch'"),
        ("labelled = 2", "labeled = 2", "labeled: unknown key; did you mean 'labelled'"),
        ('name = "MAE"', 'name = "scratch"', "the name 'scratch' is there twice"),
        ("seeds = [0, 1]", "seeds = [", "is no valid TOML"),
    ],
)
def test_a_grid_that_is_not_as_it_must_be_is_refused_with_one_sentence(folder, old, new, sentence):
    with pytest.raises(DataError, match=sentence):
        changed(folder, old, new)


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def single(folder):
    """A grid of a single fine-tuning from scratch, so small that it trains in a second."""
    sets = json.dumps([*TINY["all"], *TINY["finetuning"]])
    changed(folder, '["finetuning.steps=6"]', sets)
    changed(folder, "seeds = [0, 1]", "seeds = [0]")
    changed(folder, ', {name = "MAE", from = "mae", against = "scratch"}', "")
    return changed(folder, ', {name = "all labels"}', "")


def test_a_run_goes_on_where_it_was_stopped_and_is_not_repeated(folder, single, phantoms, tmp_path):
    (training,) = trainings(single)
    work, records = tmp_path / "work", folder / "records"
    # A run that was stopped before its first state: without --resume it would be refused.
    begin_run(training.changed_card(), work / "runs" / training.name, False, "finetune")
    assert study.run_missing([single], phantoms.parent, work, 1, records) == []
    told = json.loads((records / f"{training.name}.json").read_text())
    ids = {part: {entry["image"] for entry in json.loads(path.read_text())[part]}
           for path in (phantoms / "dataset.json",) for part in ("training", "validation")}  # fmt: skip
    used = {*told["split"]["training"], *told["split"]["validation"]}
    assert len(told["split"]["training"]) == 2 and len(told["split"]["validation"]) == 1
    assert all(any(case in image for image in ids["training"]) for case in used)
    assert all(any(case in image for image in ids["validation"]) for case in told["cases"])
    assert "neither trained nor selected" in told["protocol"]
    assert [step for step, _ in told["curves"]["validation dice"]] == [3, 6]
    assert told["cpu_seconds"] > 0 and told["steps"] == 6
    assert study.wanting(single, work, records) == []
    write_page(folder)
    assert differences(folder) == []


def test_what_fails_is_told_with_its_last_words(folder, single, phantoms, tmp_path):
    grid = changed(folder, "labelled = 2", "labelled = 99")
    (told,) = study.run_missing([grid], phantoms.parent, tmp_path / "work", 1, folder / "records")
    assert "cannot take 99 labelled training cases; give 1 to 3" in told
    assert not list((folder / "records").iterdir())


def test_a_pretraining_whose_weights_are_gone_is_run_again_only_for_what_needs_them(folder, tmp_path):
    grid, records = read_grid(folder / "grid.toml"), folder / "records"
    record_all(grid, records)
    assert study.wanting(grid, tmp_path, records) == []
    begun = next(one for one in trainings(grid) if one.start is not None)
    study.record_path(begun, records).unlink()
    assert study.wanting(grid, tmp_path, records) == [begun.start, begun]


def test_two_studies_do_not_work_in_one_folder(tmp_path):
    with study.alone(tmp_path), pytest.raises(DataError, match="another study works in"), study.alone(tmp_path):
        pass


# --- the page ---------------------------------------------------------------------------------------------------------


def record_all(grid, records):
    """Records of all runs of a grid, with figures that tell them apart."""
    for number, cell in enumerate(cells(grid)):
        dice = 0.5 + number / 100
        cases = {case: {"A": {"dice": dice + place / 1000, "hd95_mm": 3.0}} for place, case in enumerate("pqr")}
        write(records, cell.training, cases=cases, split={"training": ["x"], "validation": ["y"]}, dice=dice)
        if cell.training.start is not None:
            write(records, cell.training.start, dice=dice, between_scans=0.5)


def write(records, training, dice, **more):
    curves = {"validation dice": [[3, dice - 0.1], [6, dice]], "validation loss": [[6, 0.25]]}
    told = {**study.describe(training), "curves": curves, "steps": 6, "cpu_seconds": 3.0, "peak_bytes": 10**9, **more}
    study.record_path(training, records).write_text(study.render(told))


@pytest.fixture
def page(folder):
    """The page of a grid whose runs are all recorded."""
    record_all(read_grid(folder / "grid.toml"), folder / "records")
    write_page(folder)
    return folder.with_suffix(".md")


def test_the_page_gives_means_over_seeds_and_differences_of_equal_seeds(page):
    text = page.read_text()
    # Seeds 0 and 1 of "2 labels": cases 0.500 to 0.502 and 0.510 to 0.512, from MAE 0.04 higher.
    assert "| scratch | 0.5060 \u00b1 0.0071 (2) |" in text
    assert "| MAE \u2212 scratch | +0.0400 \u00b1 0.0000 (2); +0.0400 to +0.0400" in text
    # Scratch ends at 0.50 and 0.51, MAE has 0.44 and 0.45 at step 3, and ends at 0.54 and 0.55.
    assert "| 6 / 6 = 1 / 1.00 (2 of 2) |" in text
    assert "0.2500" in text and "0.500, 1000" in text


def test_a_figure_that_the_records_do_not_give_fails_the_check(folder, page):
    assert differences(folder) == []
    page.write_text(page.read_text().replace("0.5060", "0.5061"))
    (told,) = differences(folder)
    assert "0.5061" in told and "0.5060" in told
    write_page(folder)
    record = next((folder / "records").glob("finetune-*.json"))
    record.write_text(record.read_text().replace('"dice": 0.5', '"dice": 0.6', 1))
    assert any("records give" in told for told in differences(folder))


def test_a_plot_that_the_records_do_not_give_fails_the_check(folder, page):
    (folder / "grid.png").write_bytes(b"")
    assert differences(folder) == [f"{folder / 'grid.png'}: is not the plot that the records give"]


def test_a_record_that_no_grid_asks_for_fails_the_check(folder, page):
    stray = folder / "records" / "finetune-000000000000.json"
    stray.write_text(next((folder / "records").glob("finetune-*.json")).read_text())
    assert differences(folder) == [f"{stray}: no grid asks for this run any more; remove it"]


def test_the_page_of_the_project_is_what_its_records_give():
    assert differences(FOLDER) == []
