"""The whole road in one go, on small phantoms, and the cards that the demo fits to any data set."""

import numpy as np
import pytest

from mimzoo.cards import override
from mimzoo.data.datasets import read_dataset
from mimzoo.demo import demo, fit_cards
from mimzoo.errors import DataError
from mimzoo.volume import read_labels, read_scan


def test_the_road_ends_with_a_mask_in_the_scans_grid_and_a_picture(tiny_encoder, tiny_segmenter, phantoms, tmp_path):
    said = []
    # A few hundred steps of a tiny model: no class may be so unsure that rounding decides it.
    learning = ["finetuning.steps=40", "finetuning.validate_every=20", "finetuning.optimiser.lr=0.01"]
    cards = (tiny_encoder, override(tiny_segmenter, [*learning, "finetuning.labelled=2"]))
    found = demo(tmp_path / "demo", phantoms, cards=cards, say=said.append)
    scan = read_dataset(phantoms).validation[0].image
    mask = read_labels(tmp_path / "demo" / "mask.nii.gz")
    assert (
        np.allclose(mask.grid.affine, read_scan(scan).grid.affine) and mask.voxels.shape == read_scan(scan).grid.shape
    )
    assert mask.names == {1: "Liver", 2: "Spleen", 3: "LeftKidney", 4: "RightKidney"}
    assert found.picture.read_bytes().startswith(b"\x89PNG")
    assert 0 <= found.dice_scratch <= 1 and 0 <= found.dice_pretrained <= 1
    assert any("without torch" in line for line in said) and "look at" in said[-1]
    with pytest.raises(DataError, match="holds a demo already"):
        demo(tmp_path / "demo", phantoms, cards=cards)


def test_cards_are_fitted_to_ct(phantoms):
    encoder, segmenter = fit_cards(read_dataset(phantoms))
    assert encoder.block.input == segmenter.block.input
    assert encoder.block.input.intensity.mode == "window_hu" and encoder.block.input.channels == ("CT",)
    assert encoder.block.input.spacing_mm == pytest.approx((13, 13, 14), rel=0.1)
    assert all(n % 8 == 0 for n in encoder.block.input.crop)


def test_cards_are_fitted_to_mr(data_root):
    dataset = read_dataset(data_root / "hippocampus")
    _, segmenter = fit_cards(dataset)
    assert segmenter.block.labels == {1: "Anterior", 2: "Posterior"}
    assert segmenter.block.input.intensity.mode == "zscore"
    assert segmenter.block.input.spacing_mm == (1.0, 1.0, 1.0) and segmenter.block.input.crop == (32, 32, 32)
    assert segmenter.block.finetuning.labelled == 4


def test_a_data_set_without_labels_is_refused(phantoms):
    with pytest.raises(DataError, match="no labelled training and validation cases"):
        fit_cards(read_dataset(phantoms / "imagesUn"))
