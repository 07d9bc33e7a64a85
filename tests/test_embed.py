"""Vectors of whole scans: one for each, the mean over the coarsest map and over windows that cover the scan."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch

from mimzoo.data.datasets import read_dataset
from mimzoo.embed import embed, encoder_of
from mimzoo.errors import DataError, ScanError
from mimzoo.models import load
from mimzoo.pretrain import pretrain
from mimzoo.volume import Grid, Volume, prepare, read_scan
from mimzoo.weights import read_about


@pytest.fixture
def encoder(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "encoder")
    return tmp_path / "encoder"


def test_each_scan_gets_a_vector_under_its_name(encoder, phantoms, tmp_path):
    scans = [case.image for case in read_dataset(phantoms).training]
    out = tmp_path / "features.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "mimzoo", "embed", str(encoder), *map(str, scans), "-o", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and f"{out}: {len(scans)} vectors of 24 numbers" in done.stdout, done.stderr
    vectors = safetensors.numpy.load_file(out)
    assert vectors.keys() == {scan.name.removesuffix(".nii.gz") for scan in scans}
    assert len({vector.tobytes() for vector in vectors.values()}) == len(scans)
    assert read_about(out)["card"] == "vit-mae-phantom"


def test_a_scan_of_one_window_has_the_mean_of_its_coarsest_map(encoder, phantoms):
    card, vector = encoder_of(encoder)
    whole = read_scan(read_dataset(phantoms).training[0].image)
    spacing = np.diag([*card.block.input.spacing_mm, 1.0])
    scan = Volume(whole.voxels[:, :16, :16, :16], Grid((16, 16, 16), spacing))
    volume = torch.from_numpy(prepare(scan, card.block.input).voxels)[None]
    with torch.no_grad():
        wanted = load(encoder)(volume)[-1].mean((2, 3, 4))[0]
    np.testing.assert_allclose(vector(scan), wanted, atol=1e-5)


def test_two_scans_of_one_name_and_scans_that_cannot_be_read_are_refused(encoder, phantoms, tmp_path):
    scan = str(read_dataset(phantoms).training[0].image)
    out = tmp_path / "features.safetensors"
    with pytest.raises(DataError, match="two scans have one name"):
        embed(encoder, [scan, scan], out)
    with pytest.raises(ScanError, match="no such file"):
        embed(encoder, [scan, str(tmp_path / "nothing.nii")], out)
    assert not out.exists()
