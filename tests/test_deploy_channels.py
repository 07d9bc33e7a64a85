"""Models that see several channels: from files or from one, in the right order, each at its place in the world."""

from itertools import permutations

import numpy as np
import pytest
from thresholds import (
    CENTRE,
    OBLIQUE,
    an_input,
    ball,
    counted,
    dice,
    linear_graph,
    metadata,
    noise,
    save_model,
    save_scan,
)

from mimzoo.deploy import Segmenter
from mimzoo.errors import ScanError
from mimzoo.recipes import ZScore
from mimzoo.volume import Grid, Volume, read_scan

BRAIN = ("FLAIR", "T1", "T1ce", "T2")


def four_channel_model(path, channels=BRAIN):
    """Label 1 where T1ce is above 400, label 2 where it is above 700; the other channels must not matter."""
    seen = np.array([name == "T1ce" for name in channels], float)
    known = linear_graph(np.outer([0, 1, 2], seen), [0, -0.4, -1.1])
    return save_model(path, metadata(input=an_input(channels=channels)), graph=known)


def brain_scans(folder, affine=None):
    return [save_scan(folder / f"{name}.nii.gz", noise(seed=n), affine) for n, name in enumerate(BRAIN)]


def test_four_files_are_the_channels_in_the_models_order(tmp_path):
    segment = Segmenter(four_channel_model(tmp_path / "m.onnx"))
    files = brain_scans(tmp_path)
    for order in permutations(range(4)):
        labels = segment([files[n] for n in order])
        # whatever is given third is taken for T1ce
        np.testing.assert_array_equal(labels.voxels, counted(noise(seed=order[2]) / 1000))


@pytest.mark.parametrize("channels", list(permutations(BRAIN))[::5], ids="-".join)
def test_a_model_of_another_order_of_channels_takes_its_own(tmp_path, channels):
    segment = Segmenter(four_channel_model(tmp_path / "m.onnx", channels))
    named = dict(zip(BRAIN, brain_scans(tmp_path), strict=True))
    labels = segment([str(named[name]) for name in channels])
    np.testing.assert_array_equal(labels.voxels, counted(noise(seed=BRAIN.index("T1ce")) / 1000))


def test_one_4d_file_holds_the_channels_in_the_models_order(tmp_path):
    segment = Segmenter(four_channel_model(tmp_path / "m.onnx"))
    scan = save_scan(tmp_path / "scan.nii.gz", np.stack([noise(seed=n) for n in range(4)], -1))
    expected = counted(noise(seed=2) / 1000)
    for given in (scan, [scan], read_scan(scan, 4)):
        np.testing.assert_array_equal(segment(given).voxels, expected)


def test_each_channel_is_normalised_by_itself(tmp_path):
    about = metadata(input=an_input(channels=("T1", "T2"), intensity=ZScore(mode="zscore")))
    known = linear_graph([[0, 0], [0, 1], [0, 2]], [0, -0.4, -1.1])
    segment = Segmenter(save_model(tmp_path / "m.onnx", about, graph=known))
    files = [save_scan(tmp_path / f"{n}.nii.gz", noise(seed=n).astype(np.float32) * 50**n) for n in range(2)]
    voxels = noise(seed=1).astype(np.float64)
    np.testing.assert_array_equal(segment(files).voxels, counted((voxels - voxels.mean()) / voxels.std()))


def test_a_channel_on_another_grid_is_seen_where_its_object_is(tmp_path):
    # As in ISLES: DWI decides the grid, ADC shares it, FLAIR is oblique with voxels of its own; only FLAIR shows it.
    shape, affine = (40, 36, 30), np.array([[-2.0, 0, 0, 0], [0, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    affine[:3, 3] = CENTRE - affine[:3, :3] @ [17, 20, 12]
    known = linear_graph([[0, 0, 0], [0, 0, 1]], [0, -0.5])
    about = metadata(input=an_input(channels=("DWI", "ADC", "FLAIR"), spacing_mm=(2, 2, 2)), labels={1: "Infarct"})
    segment = Segmenter(save_model(tmp_path / "m.onnx", about, graph=known))
    files = [save_scan(tmp_path / f"{name}.nii.gz", noise(shape, n), affine) for n, name in enumerate(("dwi", "adc"))]
    flair = save_scan(tmp_path / "flair.nii.gz", ball(radius_mm=14.0)[0], OBLIQUE)
    labels = segment([*files, flair])
    np.testing.assert_allclose(labels.grid.affine, affine, atol=1e-4)
    inside = ball(shape, affine, radius_mm=14.0)[1]
    assert labels.voxels.shape == shape and inside.sum() > 1000
    assert dice(labels.voxels == 1, inside) > 0.97


BAD_FILES = {
    "too few": (
        lambda files: files[:3],
        r"3 files .* 4 .*; give one file for each of FLAIR, T1, T1ce, T2, in this",
    ),
    "too many": (lambda files: files * 2, "8 files where the model sees 4"),
    "none": (lambda files: [], "0 files"),
    "one of them": (lambda files: files[0], "has 1 channel where 4 channels are expected"),
    "one of them missing": (lambda files: [*files[:3], files[3].with_name("t2.nii.gz")], r"t2\.nii\.gz: no such file"),
}


@pytest.mark.parametrize(("choose", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_are_not_the_models_channels_are_refused(tmp_path, choose, reason):
    segment = Segmenter(four_channel_model(tmp_path / "m.onnx"))
    with pytest.raises(ScanError, match=reason) as caught:
        segment(choose(brain_scans(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_volume_with_other_channels_is_refused(tmp_path):
    with pytest.raises(ScanError, match=r"1 channel\(s\) where 4 \(FLAIR, T1, T1ce, T2\) are expected"):
        Segmenter(four_channel_model(tmp_path / "m.onnx"))(Volume(noise()[None], Grid(noise().shape, np.eye(4))))
