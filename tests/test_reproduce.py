"""A recorded run of the study, trained anew and held against its record."""

import json

import pytest
import reproduce
import study
from study_grid import read_grid, trainings
from test_study import changed, folder, record_all, single  # noqa: F401

from mimzoo.errors import DataError, UnknownNameError


def test_a_run_trained_anew_has_the_figure_of_its_record(folder, single, phantoms, tmp_path, monkeypatch, capsys):  # noqa: F811
    (training,) = trainings(single)
    assert study.run_missing([single], phantoms.parent, tmp_path / "work", 1, folder / "records") == []
    words = [training.name, "--data", str(phantoms.parent), "--work", str(tmp_path / "again"), "--folder", str(folder)]
    monkeypatch.setattr("sys.argv", ["reproduce.py", *words])
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert ended.value.code == 0, capsys.readouterr()
    path = folder / "records" / f"{training.name}.json"
    first = reproduce.figure_of(reproduce.read_record(path))
    assert f"Dice {first:.4f}, recorded {first:.4f}" in capsys.readouterr().out
    # A record that says otherwise is not borne out.
    told = json.loads(path.read_text())
    for case in told["cases"].values():
        for scores in case.values():
            scores["dice"] += 0.1
    path.write_text(json.dumps(told))
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert ended.value.code == 1


def test_two_standard_deviations_over_the_seeds_are_allowed(folder):  # noqa: F811
    grid, records = read_grid(folder / "grid.toml"), folder / "records"
    record_all(grid, records)
    tuned = next(one for one in trainings(grid) if one.verb == "finetune" and one.labelled == 2)
    first = reproduce.read_record(study.record_path(tuned, records))
    # The figures of the two seeds are 0.01 apart, as `record_all` numbers them.
    assert reproduce.allowed(tuned, first, [grid], records) == pytest.approx(2 * 0.01 / 2**0.5)


def test_seeds_that_lie_close_together_allow_a_hundredth_of_dice(folder):  # noqa: F811
    grid, records = read_grid(folder / "grid.toml"), folder / "records"
    record_all(grid, records)
    tuned = next(one for one in trainings(grid) if one.verb == "finetune" and one.labelled == 2)
    path = study.record_path(tuned, records)
    for other in reproduce.of_all_seeds(tuned, grid, records).values():
        told = {**json.loads(other.read_text()), "cases": json.loads(path.read_text())["cases"]}
        other.write_text(json.dumps(told))
    assert reproduce.allowed(tuned, reproduce.read_record(path), [grid], records) == reproduce.DICE_AT_MOST


def test_what_is_not_recorded_is_refused_with_one_sentence(folder):  # noqa: F811
    grid = read_grid(folder / "grid.toml")
    name = trainings(grid)[0].name
    with pytest.raises(UnknownNameError, match=f"the study has no run '{name}0'; did you mean '{name}'"):
        reproduce.find_training(f"{name}0", [grid])
    with pytest.raises(DataError, match="only a run that is recorded"):
        reproduce.read_record(study.record_path(trainings(grid)[0], folder / "records"))
