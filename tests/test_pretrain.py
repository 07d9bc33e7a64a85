"""Pretraining: a run folder that is a model, resumed bit by bit after a kill, refused in one sentence."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import tiny

from mimzoo.cards import override, read_card, write_card
from mimzoo.errors import CardError, DataError, ShapeError
from mimzoo.models import load
from mimzoo.pretrain import pretrain
from mimzoo.reconstruct import load_objective, make_objective
from mimzoo.starts import start_objective
from mimzoo.weights import read_weights


def test_a_run_is_a_model_folder(tiny_encoder, phantoms, tmp_path):
    card = pretrain(tiny_encoder, phantoms, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    made = {"model.safetensors", "pretraining.safetensors", "history.csv", "reconstruction.png", "curves.png"}
    assert made | {"README.md"} <= names
    encoder = load(tmp_path / "run")
    assert [tuple(map_.shape) for map_ in encoder(torch.zeros(1, 1, 16, 24, 16))] == [(1, 24, 2, 3, 2)] * 4
    assert read_card(tmp_path / "run").block == card.block
    objective = load_objective(read_card(tmp_path / "run"))
    assert torch.equal(objective.encoder.state_dict()["patch.weight"], encoder.state_dict()["patch.weight"])


def changed(objective, folder):
    """Whether encoder and decoder of an objective have other weights than the run in a folder."""
    state = {**read_weights(folder / "model.safetensors"), **read_weights(folder / "pretraining.safetensors")}
    return tuple(
        any(not torch.equal(state[key], value) for key, value in objective.state_dict().items() if key.startswith(part))
        for part in ("encoder.", "decoder.")
    )


def test_a_run_goes_on_from_the_encoder_and_decoder_of_another(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "first")
    card = override(tiny_encoder, ["pretraining.seed=1", f"pretraining.start={tmp_path / 'first'}"])
    objective = make_objective(card)
    assert changed(objective, tmp_path / "first") == (True, True)
    assert "begun from the encoder and the decoder of" in start_objective(objective, card, str(tmp_path / "first"))
    assert changed(objective, tmp_path / "first") == (False, False)
    second = pretrain(card, phantoms, tmp_path / "second")
    assert f"pretraining.start={tmp_path / 'first'}" in second.block.command
    assert changed(load_objective(second), tmp_path / "first") == (True, True)


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("pretraining.decoder.args={width: 18, depth: 1, heads: 1}", "the two recipes have another objective or dec"),
        ("input.crop=[16, 24, 16]", "that was made for crops of 16 x 16 x 16"),
        ("input.channels=[A, B]", "that was made for other channels"),
    ],
)
def test_a_decoder_that_does_not_fit_begins_fresh_and_it_is_said(tiny_encoder, phantoms, tmp_path, assignment, reason):
    pretrain(tiny_encoder, phantoms, tmp_path / "first")
    card = override(tiny_encoder, ["pretraining.seed=1", assignment])
    objective = make_objective(card)
    said = start_objective(objective, card, str(tmp_path / "first"))
    assert said.startswith("begun from the encoder of") and f"its decoder is fresh, since {reason}" in said
    first = load(tmp_path / "first").state_dict()
    fitting = {key: value for key, value in objective.encoder.state_dict().items() if key != "patch.weight"}
    assert all(torch.equal(value, first[key]) for key, value in fitting.items())


def test_a_start_that_computes_otherwise_with_the_same_weights_is_refused(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "first")
    card = override(tiny_encoder, ["encoder.args={patch: [8, 8, 8], width: 24, depth: 4, heads: 2}"])
    with pytest.raises(ShapeError, match="vit-tiny with heads 2, its start .* with heads 3; .*--set 'encoder.args={.*"):
        start_objective(make_objective(card), card, str(tmp_path / "first"))


def test_a_run_quotes_the_loss_of_its_weights_beside_that_of_the_units_means(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "run")
    loss, baseline = read_card(tmp_path / "run").block.metrics
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    found = {
        name: [float(row["value"]) for row in rows if (row["split"], row["name"]) == ("validation", name)]
        for name in ("loss", "baseline")
    }
    assert (loss.name, baseline.name) == ("validation loss", "baseline loss")
    assert loss.value == min(found["loss"]) and baseline.value == pytest.approx(found["baseline"][0])
    assert "validation scans" in loss.protocol


def test_the_loss_on_validation_scans_falls(tiny_encoder, phantoms, tmp_path):
    longer = override(tiny_encoder, ["pretraining.steps=60", "pretraining.validate_every=20", "pretraining.batch=4"])
    pretrain(longer, phantoms, tmp_path / "run")
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validation" and row["name"] == "loss"]
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert float(rows[-1]["value"]) < float(rows[0]["value"])


def train_in_subprocess(card, data, out, home, *extra):
    """Start the command line on a card's folder and return the process."""
    folder = out.parent / "card"
    write_card(card, folder)
    command = [sys.executable, "-m", "mimzoo", "pretrain", str(folder), "--data", str(data), "-o", str(out), *extra]
    # The sum of many numbers depends on how many threads share it.
    env = {**os.environ, "MIMZOO_HOME": str(home), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def wait_for_step(process, out, step):
    """Wait until the run has recorded this step."""
    history = out / "history.csv"
    while process.poll() is None:
        if history.is_file() and any(row.startswith(f"{step},") for row in history.read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


@pytest.fixture(scope="module")
def straight(phantoms, tmp_path_factory):
    """The folder of an uninterrupted run, and its card."""
    folder = tmp_path_factory.mktemp("straight")
    card = override(tiny("pretraining", "vit-mae-phantom"), LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMZOO_HOME", str(folder / "home"))
        pretrain(card, phantoms, folder / "run")
    return folder / "run", card


LONG = ["pretraining.steps=30", "pretraining.validate_every=12", "encoder.args.drop_path=0.2"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)])
def test_a_stopped_run_resumes_bit_by_bit(straight, phantoms, tmp_path, home, number, code):
    whole, card = straight
    out = tmp_path / "run"
    process = train_in_subprocess(card, phantoms, out, home, "--save-seconds", "0")
    wait_for_step(process, out, 10)
    process.send_signal(number)
    returned, _, stderr = finish(process)
    assert returned == code, stderr
    assert (number == signal.SIGKILL) or "--resume" in stderr
    assert not (out / "model.safetensors").exists()
    assert finish(train_in_subprocess(card, phantoms, out, home, "--resume"))[0] == 0
    ours, theirs = (read_weights(folder / "model.safetensors") for folder in (out, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (out / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_a_folder_is_never_trained_over(tiny_encoder, phantoms, tmp_path):
    with pytest.raises(DataError, match="holds no run to resume; leave --resume out"):
        pretrain(tiny_encoder, phantoms, tmp_path / "run", resume=True)
    pretrain(tiny_encoder, phantoms, tmp_path / "run")
    with pytest.raises(DataError, match="holds a run already; add --resume"):
        pretrain(tiny_encoder, phantoms, tmp_path / "run")
    with pytest.raises(CardError, match="follows another recipe"):
        pretrain(override(tiny_encoder, ["pretraining.seed=5"]), phantoms, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("input.crop=[16, 16, 20]", r"16 x 16 x 20 is not divisible by the patch 8 x 8 x 8; the nearest is"),
        ("pretraining.masking.args={ratio: 0.01, unit: [8, 8, 8]}", "hides none"),
        ("pretraining.masking.args={ratio: 0.6, unit: [4, 4, 4]}", "smallest unit"),
        ("pretraining.decoder={name: linear}", "drops hidden units, but decoder 'linear' supports only replace"),
        ("encoder.args.widht=3", "unknown argument 'widht'; did you mean 'width'"),
    ],
)
def test_what_does_not_fit_is_said_before_training(tiny_encoder, phantoms, tmp_path, assignment, sentence):
    with pytest.raises(ShapeError, match=sentence):
        pretrain(override(tiny_encoder, [assignment]), phantoms, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_seed_gives_the_same_start(tiny_encoder):
    first, second = make_objective(tiny_encoder).state_dict(), make_objective(tiny_encoder).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = make_objective(override(tiny_encoder, ["pretraining.seed=1"])).state_dict()
    assert not torch.equal(first["encoder.patch.weight"], other["encoder.patch.weight"])
