"""Export: one file with all that deployment needs, equal to the model or refused."""

import hashlib

import numpy as np
import onnx
import pytest
import torch

from mimzoo.cards import override, read_card
from mimzoo.data.datasets import read_dataset
from mimzoo.deploy import Segmenter
from mimzoo.errors import CardError, ExportError
from mimzoo.export import export
from mimzoo.finetune import finetune
from mimzoo.inference import answer_with, numpy_predictor
from mimzoo.models import load
from mimzoo.pretrain import pretrain
from mimzoo.tasks import make_task
from mimzoo.volume import read_scan

LABELS = make_task({1: "Liver"}, None, None)


@pytest.fixture
def segmenter(tiny_segmenter, phantoms, tmp_path):
    """The folder of a segmenter that has learned a little."""
    learning = ["finetuning.steps=40", "finetuning.validate_every=20", "finetuning.optimiser.lr=0.01"]
    finetune(override(tiny_segmenter, learning), phantoms, tmp_path / "seg")
    return tmp_path / "seg"


def test_the_file_gives_the_masks_of_the_model(segmenter, phantoms):
    scan = read_dataset(phantoms).validation[0].image
    path, parities = export(segmenter, scan=scan)
    assert [found.volume for found in parities] == ["CT-like phantom", scan.name]
    assert all(found.holds() for found in parities)
    card = read_card(segmenter)
    assert card.block.onnx.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    deployed, trained = Segmenter(path), answer_with(load(segmenter), card)
    assert (deployed.card, deployed.labels, deployed.roi) == (card.name, card.block.labels, card.block.input.crop)
    ours, theirs = deployed(scan), trained(read_scan(scan))
    assert (ours.voxels != theirs.voxels).mean() < 1e-3
    assert np.array_equal(ours.grid.affine, theirs.grid.affine)


def test_the_graph_takes_any_batch_and_one_roi(segmenter):
    path, _ = export(segmenter)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param and [dim.dim_value for dim in dims[1:]] == [1, 16, 16, 16]
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    model = load(segmenter)
    for batch in (1, 3):
        volume = torch.randn(batch, 1, 16, 16, 16)
        with torch.inference_mode():
            expected = model(volume).numpy()
        assert np.abs(session.run(None, {"volume": volume.numpy()})[0] - expected).max() < 1e-3


def test_a_graph_that_differs_is_refused_and_nothing_is_written(segmenter, monkeypatch):
    monkeypatch.setattr("mimzoo.export.DICE_AT_LEAST", 1.1)
    with pytest.raises(ExportError, match=r"is not its model: CT-like phantom: .*; nothing was written"):
        export(segmenter)
    assert not list(segmenter.glob("*.onnx*")) and read_card(segmenter).block.onnx is None


def test_parity_sees_a_model_that_differs(segmenter):
    card, model = read_card(segmenter), load(segmenter)
    other = load(segmenter)
    other.head.logits.bias.data += torch.arange(5.0)
    voxels = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    same = parity("noise", numpy_predictor(model), numpy_predictor(model), voxels, card)
    assert same == Parity("noise", 0.0, 1.0, 0)
    changed = parity("noise", numpy_predictor(other), numpy_predictor(model), voxels, card)
    assert not changed.holds() and changed.largest_difference == pytest.approx(4.0, abs=1e-3)


def test_only_clear_margins_count():
    exact = np.zeros((1, 2, 1, 1, 4), np.float32)
    exact[0, 1, 0, 0] = [1.0, -1.0, 0.001, 1.0]
    ours = exact.copy()
    ours[0, 1, 0, 0] = [1.0, -1.0, -0.001, -1.0]
    assert clear_disagreements(ours, exact, LABELS) == 1


def test_the_dice_of_parity_is_that_of_two_masks():
    ours, theirs = np.array([True, True, False]), np.array([True, False, False])
    assert dice(ours, theirs) == pytest.approx(2 / 3) and dice(~ours & ours, ours & ~ours) == 1


def test_an_encoder_is_not_exported(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "run")
    with pytest.raises(CardError, match="is an encoder; export a model with a task"):
        export(tmp_path / "run")
