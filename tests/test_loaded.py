"""What a loaded model does with scans: it prepares them as its card says, and gives their features."""

import numpy as np
import pytest
import torch
from conftest import tiny
from scans import make_pair, save

from mimzoo.cards import read_card, write_card
from mimzoo.errors import CardError, ScanError
from mimzoo.models import build_encoder, load
from mimzoo.runs import keep_weights
from mimzoo.volume import prepare, read_scan


@pytest.fixture
def folder(tmp_path):
    """The folder of a tiny encoder for scans at 13 x 13 x 14 mm, in crops of 16 voxels, of patches of 8."""
    write_card(tiny("pretraining", "vit-mae-phantom"), tmp_path / "tiny")
    card = read_card(tmp_path / "tiny")
    encoder = build_encoder(card.block.encoder, 1, card.block.input.crop)
    keep_weights(card, tmp_path / "tiny", {"weights": {f"encoder.{k}": v for k, v in encoder.state_dict().items()}})
    return tmp_path / "tiny"


def scan(path, seed=0, spacing=(6.5, 6.5, 7.0)):
    return save(path, make_pair(seed, (44, 60, 38))[0], spacing)


def test_a_scan_is_prepared_as_the_card_says_and_padded_to_what_the_encoder_needs(folder, tmp_path):
    model, path = load(folder), scan(tmp_path / "scan.nii.gz")
    seen = model.preprocess(path)
    prepared = prepare(read_scan(path), model.card.block.input).voxels
    # 44 x 60 x 38 voxels of half the card's spacing cover 22 x 30 x 20 of the card's
    assert prepared.shape == (1, 22, 30, 20) and tuple(seen.shape) == (1, 1, 24, 32, 24)
    inside = seen[0, :, 1:23, 1:31, 2:22]
    assert np.array_equal(inside.numpy(), prepared)
    assert seen[0, 0, 0].unique().tolist() == [pytest.approx(prepared.min())]


def test_its_features_are_the_encoders_maps(folder, tmp_path):
    model = load(folder)
    seen = model.preprocess(scan(tmp_path / "scan.nii.gz"))
    with torch.inference_mode():
        maps = model.features(seen)
        assert [tuple(found.shape) for found in maps] == [(1, 24, 3, 4, 3)] * 4
        assert all(torch.equal(a, b) for a, b in zip(maps, model(seen), strict=True))


def test_a_small_scan_becomes_a_whole_crop(folder, tmp_path):
    path = save(tmp_path / "small.nii.gz", make_pair(1, (12, 12, 12))[0], (6.5, 6.5, 7.0))
    assert tuple(load(folder).preprocess(path).shape) == (1, 1, 16, 16, 16)


def test_it_comes_in_the_precision_of_the_model(folder, tmp_path):
    assert load(folder, dtype=torch.bfloat16).preprocess(scan(tmp_path / "scan.nii.gz")).dtype == torch.bfloat16


def test_other_channels_are_read_from_as_many_files(folder, tmp_path):
    model = load(folder, in_channels=2)
    files = [scan(tmp_path / f"{name}.nii.gz", seed) for seed, name in enumerate("ab")]
    assert tuple(model.preprocess(files).shape) == (1, 2, 24, 32, 24)
    with pytest.raises(ScanError, match="channel"):
        model.preprocess(files[0])


def test_a_segmenter_gives_its_encoders_features(folder, tmp_path):
    model = load(folder, head="unetr", classes=2)
    seen = model.preprocess(scan(tmp_path / "scan.nii.gz"))
    with torch.inference_mode():
        assert [found.shape[1] for found in model.features(seen)] == [24] * 4
        assert tuple(model(seen).shape) == (1, 2, 24, 32, 24)


def test_a_module_that_was_only_built_cannot_prepare_scans(folder, tmp_path):
    card = read_card(folder)
    with pytest.raises(CardError, match="has no card that says how to prepare a scan; load one with mimzoo.load"):
        build_encoder(card.block.encoder, 1, card.block.input.crop).preprocess(scan(tmp_path / "scan.nii.gz"))
