"""Frozen features: what a linear classifier and nearest neighbours tell from them, and where they are taken."""

import json

import numpy as np
import pytest
import torch
from generated import write_ventricles

from mimzoo.cards import override
from mimzoo.data.layouts import convert
from mimzoo.errors import DataError
from mimzoo.finetune import finetune
from mimzoo.pretrain import pretrain
from mimzoo.probe import Rows, fit_linear, probe, probe_table, vote, voxel_features


@pytest.fixture
def encoder(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "encoder")
    return tmp_path / "encoder"


def clusters(seed, count=40):
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 3
    centres = np.array([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]])
    return Rows((centres[classes] + rng.normal(size=(count, 4))).astype(np.float32), classes)


@pytest.mark.parametrize("classify", ["linear", "neighbours"])
def test_classes_that_lie_apart_are_told_apart(classify):
    training, validation = clusters(0), clusters(1)
    if classify == "linear":
        found = fit_linear(training, 3)(validation.features)
    else:
        found = vote(training, validation.features, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (found.argmax(axis=1) == validation.classes).mean() > 0.9


def test_the_linear_classifier_is_at_the_minimum_of_its_loss():
    rows = clusters(0)
    fitted = fit_linear(rows, 3)
    weight = torch.from_numpy(fitted.weight).requires_grad_()
    logits = torch.from_numpy(rows.features) @ weight + torch.from_numpy(fitted.bias)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(rows.classes)) + 1e-3 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-3


class Positions(torch.nn.Module):
    """An encoder whose maps, of single voxels and of cells of 2, are the volume itself."""

    channels = (1, 1)

    def forward(self, volume):
        return [volume, torch.nn.functional.avg_pool3d(volume, 2)]


def test_features_are_those_at_the_voxel_wherever_it_lies():
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(11, dtype=np.float32)[:, None, None], (11, 8, 9))
    places = np.stack([rng.integers(0, n, 50) for n in ramp.shape], 1)
    found = voxel_features(Positions(), np.ascontiguousarray(ramp)[None], places, (4, 8, 4), (0.0,))
    assert found.shape == (50, 2)
    np.testing.assert_allclose(found[:, 0], places[:, 0], atol=1e-5)
    # at the faces of a crop cells of 2 are repeated, which is off by half a voxel
    assert np.abs(found[:, 1] - places[:, 0]).max() < 0.51


def test_voxels_of_label_maps_are_told_from_an_encoder(encoder, phantoms, tmp_path):
    result, path = probe(encoder, phantoms, out=tmp_path / "probe")
    assert result.names[0] == "background" and result.linear.accuracy.n == result.neighbours.accuracy.n > 50
    assert result.linear.accuracy.value > 1.5 / len(result.names)
    assert json.loads(path.read_text())["linear"]["accuracy"]["value"] == result.linear.accuracy.value
    assert probe_table(result).row_count == 2


def test_scans_are_told_by_a_column_of_the_table(tiny_encoder, tmp_path):
    folder = write_ventricles(tmp_path / "adni", 20)
    convert("adni", folder)
    seen = ["input.channels=[T1]", "input.spacing_mm=[1, 1, 1]", "input.intensity={mode: zscore, voxels: nonzero}"]
    pretrain(
        override(tiny_encoder, [text.replace("1, 1, 1]", "1.0, 1.0, 1.0]") for text in seen]), folder, tmp_path / "run"
    )
    result, _ = probe(tmp_path / "run", folder, "diagnosis", tmp_path / "probe")
    assert result.names == ("AD", "CN") and result.rows == "16 training and 4 validation scans"
    with pytest.raises(DataError, match="diagnosys"):
        probe(tmp_path / "run", folder, "diagnosys", tmp_path / "probe")
    with pytest.raises(DataError, match="names no labels; name the column of its table"):
        probe(tmp_path / "run", folder, out=tmp_path / "probe")


def test_the_encoder_of_a_segmenter_can_be_probed_too(tiny_segmenter, phantoms, tmp_path):
    finetune(tiny_segmenter, phantoms, tmp_path / "seg")
    assert probe(tmp_path / "seg", phantoms, out=tmp_path / "probe")[0].model == tiny_segmenter.name
