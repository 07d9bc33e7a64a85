"""Pictures of what a pretrained model makes of a scan."""

import subprocess
import sys

import numpy as np
import pytest

from mimzoo.cards import override
from mimzoo.errors import CardError, WeightsError
from mimzoo.pretrain import pretrain
from mimzoo.reconstruct import middle_crop, reconstruct


@pytest.fixture(scope="module")
def scan(phantoms):
    return phantoms / "imagesTr" / "validation_000.nii.gz"


def test_the_command_draws_the_middle_of_a_scan(tiny_encoder, phantoms, scan, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "run")
    picture = tmp_path / "seen.png"
    words = [sys.executable, "-m", "mimzoo", "reconstruct", str(tmp_path / "run"), str(scan), "-o", str(picture)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    first = picture.read_bytes()
    reconstruct(tmp_path / "run", scan, picture, seed=1)
    assert picture.read_bytes() != first, "another seed hides other units"


def test_a_model_without_weights_is_refused(scan, tmp_path):
    with pytest.raises(WeightsError, match="vit-mae-phantom has no model.safetensors yet; make it with"):
        reconstruct("vit-mae-phantom", scan, tmp_path / "seen.png")
    assert not (tmp_path / "seen.png").exists()


def test_an_objective_without_pictures_is_refused(tiny_encoder, phantoms, scan, tmp_path):
    changes = ["pretraining.objective={name: simclr}", "pretraining.masking=null", "pretraining.decoder=null"]
    pretrain(override(tiny_encoder, changes), phantoms, tmp_path / "run")
    with pytest.raises(CardError, match="was pretrained by simclr, which predicts no voxels"):
        reconstruct(tmp_path / "run", scan, tmp_path / "seen.png")


def test_the_middle_is_cut_out_and_what_is_missing_padded_with_the_least_value():
    voxels = np.arange(1 * 6 * 3 * 5, dtype=np.float32).reshape(1, 6, 3, 5)
    crop = middle_crop(voxels, (2, 5, 5))
    assert crop.shape == (1, 2, 5, 5)
    assert np.array_equal(crop[:, :, 1:4], voxels[:, 2:4])
    assert (crop[:, :, [0, 4]] == voxels[:, 2:4].min()).all()
