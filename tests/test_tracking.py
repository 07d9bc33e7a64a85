"""Trackers: told what the history holds and how fast it went, once, and nothing that changes a run."""

import csv
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mimzoo import tracking as module
from mimzoo.cards import override
from mimzoo.errors import MimzooError, UnknownNameError
from mimzoo.figures import draw_stage
from mimzoo.pretrain import pretrain
from mimzoo.progress import History
from mimzoo.report import settings
from mimzoo.tracking import chosen_trackers, tracking


def events(folder):
    """What TensorBoard finds in a folder of events."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def scalars(found, tag):
    return [(event.step, event.value) for event in found.Scalars(tag)]


def rows(folder):
    """The history of a run: (split, name) -> steps and values."""
    found = {}
    for row in csv.DictReader((folder / "history.csv").open()):
        found.setdefault(f"{row['split']}/{row['name']}", []).append((int(row["step"]), float(row["value"])))
    return found


def parameters(folder):
    """The hyper-parameters that event files hold, each time they were told."""
    plugin = "_hparams_/session_start_info"
    inner = [events(path.parent) for path in folder.rglob("events.out.tfevents.*")]
    contents = [each.summary_metadata[plugin].plugin_data.content for each in inner if plugin in each.summary_metadata]
    return [HParamsPluginData.FromString(content).session_start_info.hparams for content in contents]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """Name the trackers that are installed."""

    def install(*names):
        monkeypatch.setattr(module, "get_available_trackers", lambda: list(names))

    return install


@pytest.mark.parametrize(
    ("there", "names", "meant"),
    [
        (["tensorboard", "wandb"], [], ("tensorboard",)),
        (["wandb"], [], ()),
        (["tensorboard"], ["none"], ()),
        (["tensorboard", "wandb"], ["wandb", "tensorboard", "wandb"], ("wandb", "tensorboard")),
    ],
)
def test_names_mean_trackers(installed, there, names, meant):
    installed(*there)
    assert chosen_trackers(names) == meant


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["tensorbord"], "no tracker is called 'tensorbord'; did you mean 'tensorboard'"),
        (["visdom"], "no tracker is called 'visdom'; known: mlflow, none, tensorboard, trackio, wandb"),
        (
            ["tensorboard", "mlflow"],
            "the tracker mlflow is not installed; pip install mlflow, or choose --tracker none",
        ),
        (["none", "tensorboard"], "no tracker is called 'none'; leave it out beside others"),
    ],
)
def test_other_names_are_refused(installed, names, sentence):
    installed("tensorboard")
    with pytest.raises(UnknownNameError, match=sentence):
        chosen_trackers(names)


def test_the_command_refuses_a_tracker_before_it_begins(phantoms, tmp_path):
    command = [sys.executable, "-m", "mimzoo", "pretrain", "vit-mae-phantom", "--data", str(phantoms)]
    command += ["-o", str(tmp_path / "run"), "--tracker", "tensorbord"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "mimzoo: no tracker is called 'tensorbord'; did you mean 'tensorboard'?\n"
    assert list(tmp_path.iterdir()) == []


# --- what is told -----------------------------------------------------------------------------------------------------


def test_tensorboard_is_told_what_the_history_holds(tiny_encoder, phantoms, tmp_path):
    card = override(tiny_encoder, ["pretraining.steps=20", "pretraining.validate_every=10"])
    pretrain(card, phantoms, tmp_path / "run", trackers=("tensorboard",))
    found, history = events(tmp_path / "run" / "tensorboard"), rows(tmp_path / "run")
    assert set(found.Tags()["scalars"]) == {*history, "training/crops_per_second"}
    assert {"training/loss", "training/learning_rate", "validation/loss", "validation/baseline"} == set(history)
    for tag, recorded in history.items():
        assert scalars(found, tag) == [(step, pytest.approx(value, rel=1e-6)) for step, value in recorded]
    assert [step for step, speed in scalars(found, "training/crops_per_second") if speed > 0] == [10, 20]
    assert [image.step for image in found.Images("reconstruction")] == [10, 20]

    (told,) = parameters(tmp_path / "run" / "tensorboard")
    assert told.keys() == settings(card).keys()
    assert told["pretraining.optimiser.lr"].number_value == 0.001
    assert told["encoder.name"].string_value == "vit-tiny" and told["input.crop"].string_value == "[16, 16, 16]"

    pretrain(card, phantoms, tmp_path / "untold")
    assert not (tmp_path / "untold" / "tensorboard").exists()
    for name in ("history.csv", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "untold" / name).read_bytes()


def record(folder, first, steps, loss):
    """Record a loss at some steps of a run that goes on from `first`."""
    with tracking(History(folder / "history.csv", first), ("tensorboard",), folder, first, 4, {"steps": 60}) as records:
        for step in steps:
            records.add(step, "training", {"loss": loss})


def test_a_run_that_goes_on_has_each_step_once_and_its_settings_too(tmp_path):
    record(tmp_path, 0, [10, 20, 30, 40], 1.0)
    record(tmp_path, 20, [30, 40, 50], 2.0)
    found = scalars(events(tmp_path / "tensorboard"), "training/loss")
    assert found == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)] == rows(tmp_path)["training/loss"]
    (told,) = parameters(tmp_path)
    assert told["steps"].number_value == 60


def test_speed_counts_crops_since_the_last_record_or_validation(tmp_path, monkeypatch):
    clock = iter([0.0, 2.0, 2.0, 102.0, 107.0, 107.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with tracking(History(tmp_path / "history.csv", 0), ("tensorboard",), tmp_path, 0, 4, {}) as records:
        records.add(10, "training", {"loss": 1.0})
        records.add(15, "validation", {"loss": 1.0})
        records.add(20, "training", {"loss": 1.0})
    found = events(tmp_path / "tensorboard")
    assert scalars(found, "training/crops_per_second") == [(10, 20.0), (20, 4.0)]
    assert "training/crops_per_second" not in rows(tmp_path)


def test_pictures_stand_beside_each_other(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, grey in zip(paths, (0.0, 1.0), strict=True):
        draw_stage(path, np.full((4, 4, 4), grey), "", (0, 1), (1.0, 1.0, 1.0))
    with tracking(History(tmp_path / "history.csv", 0), ("tensorboard",), tmp_path, 0, 4, {}) as records:
        records.show(7, "reconstruction", paths)
    (image,) = events(tmp_path / "tensorboard").Images("reconstruction")
    (tmp_path / "told.png").write_bytes(image.encoded_image_string)
    told, shown = imread(tmp_path / "told.png"), np.hstack([imread(path)[..., :3] for path in paths])
    assert image.step == 7 and np.allclose(told[..., :3], shown, atol=1 / 255)


class Told(GeneralTracker):
    """A tracker that takes figures and no pictures, and refuses what does not suit its names."""

    name = "wandb"
    requires_logging_directory = False
    broken = False

    def __init__(self, run_name, **begun):
        super().__init__()
        self.begun, self.figures = begun, []

    @property
    def tracker(self):
        return SimpleNamespace(id=self.begun.get("id") or "abc")

    def start(self):
        if self.broken:
            raise RuntimeError("no account")

    def log(self, values, step=None):
        self.figures.append((step, values))

    def finish(self):
        self.figures.append("finished")


def test_names_of_classes_are_made_to_suit_and_pictures_are_for_those_that_take_them(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Told)
    with tracking(History(tmp_path / "history.csv", 0), ("wandb",), tmp_path, 0, 1, {}) as records:
        records.show(6, "reconstruction", [tmp_path / "not-there.png"])
        records.add(6, "validation", {"dice <b>Left & 'Right'": 0.5})
    (tracker,) = records.trackers
    assert tracker.figures == [(6, {"validation/dice _b_Left _ _Right_": 0.5}), "finished"]
    assert tracker.begun["dir"] == tmp_path and tracker.begun["name"] == tmp_path.name
    assert "dice <b>Left & 'Right'" in (tmp_path / "history.csv").read_text()


def test_a_run_that_goes_on_is_the_same_run_to_its_trackers_and_a_new_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Told)

    def begun(step):
        with tracking(History(tmp_path / "history.csv", step), ("wandb",), tmp_path, step, 1, {}) as records:
            return records.trackers[0].begun["id"]

    assert [begun(0), begun(7), begun(0)] == [None, "abc", None]
    (tmp_path / "trackers.json").write_text("{")
    with pytest.raises(MimzooError, match="the tracker wandb does not start"):
        begun(7)


def test_a_tracker_that_does_not_start_is_one_sentence_and_the_others_are_finished(tmp_path, monkeypatch):
    class Broken(Told):
        broken = True

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Told)
    monkeypatch.setitem(module.BEGINNINGS, "mlflow", lambda folder, step, run: {"run_name": "x"})
    monkeypatch.setitem(module.CALLED, "mlflow", lambda run: "x")
    finished = []
    monkeypatch.setattr(Told, "finish", lambda self: finished.append(self))
    history = History(tmp_path / "history.csv", 0)
    with (
        pytest.raises(MimzooError, match=r"the tracker wandb does not start \(no account\); set it up, or choose"),
        tracking(history, ("mlflow", "wandb"), tmp_path, 0, 1, {}),
    ):
        raise AssertionError("it was not to begin")
    assert len(finished) == 1


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_of_eighty_columns_shows_loss_rate_speed_and_the_time_left():
    code = (
        "import time\n"
        "from mimzoo.progress import progress_bar\n"
        "with progress_bar('resenc-spark-hippocampus', 1500, 0, 8, quiet=False) as shown:\n"
        "    for step in range(1, 4):\n"
        "        time.sleep(0.3)\n"
        "        shown.advance(step, 0.123456, 0.00025)\n"
        "    shown.bar.refresh()\n"
    )
    env = {**os.environ, "COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout).strip().splitlines()[-1]
    assert re.fullmatch(r"resenc-spa\S* .* 3/1500 loss 0.1235 lr 2.5e-04 \d+\.\d crops/s 0:\d\d:\d\d", last), last
