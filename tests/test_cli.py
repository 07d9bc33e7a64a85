"""The command line: one sentence and a non-zero exit for each mistake, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from thresholds import noise, save_model, save_scan

from mimzoo.cards import override, read_card, update_card, write_card


def mimzoo(*arguments, **environment):
    """Run the command line and return the finished process."""
    command = [sys.executable, "-m", "mimzoo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240)


def refused(done):
    """The one sentence of a refusal: no traceback, exit code 1."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("mimzoo: "), done.stderr
    return lines[0]


def test_the_list_names_every_shipped_model():
    done = mimzoo("list")
    assert done.returncode == 0
    assert "vit-mae-hippocampus-seg" in done.stdout and "yet to be trained" in done.stdout


def test_plugins_are_listed_with_their_distribution():
    done = mimzoo("plugins")
    assert done.returncode == 0
    assert "vit-tiny" in done.stdout and "mimzoo 0." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pretrain", "vit-mae-hipocampus", "--data", "."], "did you mean 'vit-mae-hippocampus'"),
        (["pretrain", "vit-mae-phantom", "--data", "nowhere"], "nowhere: no such folder"),
        (["pretrain", "vit-mae-phantom", "--data", ".", "--set", "pretraining.steps=many"], "a number is needed"),
        (["finetune", "vit-mae-phantom", "--data", "."], "has no fine-tuning recipe"),
        (["finetune", "vit-mae-phantom-seg", "--data", "."], "holds no scans"),
        (["evaluate", "vit-mae-phantom-seg", "--data", "."], "has no weights yet"),
        (["export", "./nothing"], "holds no model card"),
        (["segment", "vit-mae-phantom-seg", "scan.nii.gz", "-o", "out"], "has no model.onnx; make one with"),
        (["segment", "nothing.onnx", "scan.nii.gz", "-o", "out"], "nothing.onnx"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(mimzoo(*arguments))
    assert list(tmp_path.iterdir()) == []


def test_the_road_by_commands(tiny_encoder, tiny_segmenter, phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_card(tiny_encoder, tmp_path / "cards" / "mine")
    learning = ["finetuning.steps=40", "finetuning.validate_every=20", "finetuning.optimiser.lr=0.01"]
    write_card(override(tiny_segmenter, learning), tmp_path / "cards" / "mine-seg")
    for arguments in (
        ["pretrain", "./cards/mine", "--data", phantoms, "-o", "encoder"],
        ["finetune", "./cards/mine-seg", "--data", phantoms, "-o", "seg", "--from", "./encoder"],
        ["evaluate", "./seg", "--data", phantoms],
        ["export", "./seg"],
    ):
        done = mimzoo(*arguments)
        assert done.returncode == 0, done.stderr
    scans = sorted((phantoms / "imagesTr").glob("*.nii.gz"))[:2]
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scans[0].read_bytes()[:500])
    done = mimzoo("segment", "./seg", *scans, broken, "-o", "masks")
    assert done.returncode == 1 and "2 masks in masks" in done.stdout and "broken.nii.gz" in done.stderr
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz")) == sorted(scan.name for scan in scans)
    # Where the graph is, no weights are wanted, not even from where the card says they were published.
    seg = read_card(tmp_path / "seg")
    (tmp_path / "seg" / "model.safetensors").unlink()
    write_card(update_card(seg, weights={**seg.block.weights.model_dump(), "repo": "me/seg", "tag": "v1"}), seg.folder)
    done = mimzoo("segment", "./seg", scans[0], "-o", "alone", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    # What is not the file that the card names draws nothing.
    graph = tmp_path / "seg" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    assert "model.onnx is not the file that its card names" in refused(
        mimzoo("segment", "./seg", scans[0], "-o", "more")
    )
    assert not (tmp_path / "more").exists()


def test_a_folder_whose_name_is_no_text_is_told_as_well(tmp_path):
    model, scan = save_model(tmp_path / "m.onnx"), save_scan(tmp_path / "a.nii.gz", noise())
    out = os.fsencode(tmp_path) + b"/m\xfcller"
    command = [sys.executable, "-m", "mimzoo", "segment", model, scan, "-o", out]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, timeout=240)
    assert done.returncode == 0, done.stderr
    assert b"1 masks in " in done.stdout and b"m\\udcfcller" in done.stdout
    assert (Path(os.fsdecode(out)) / "a.nii.gz").is_file()


def test_a_bad_plugin_fails_the_listing_and_nothing_else(tmp_path):
    package = tmp_path / "bad-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[mimzoo]\nbad = a_module_that_is_not_there\n")
    done = mimzoo("plugins", PYTHONPATH=str(tmp_path))
    assert "plugin 'bad' of bad 1.0 is not usable: ModuleNotFoundError" in refused(done)
    assert "vit-tiny" in done.stdout
    assert mimzoo("list", PYTHONPATH=str(tmp_path)).returncode == 0
