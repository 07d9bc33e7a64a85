"""What is doubtful about a scan: one sentence each for a far spacing and for intensities that cannot be right."""

import nibabel as nib
import numpy as np
import pytest
from thresholds import OBLIQUE, an_input, noise

from mimzoo.deploy.doubts import doubts
from mimzoo.recipes import WindowHU, ZScore
from mimzoo.volume import Grid, Volume, read_scan

CT = an_input(intensity=WindowHU(mode="window_hu", window_hu=(-160, 240)))
SHAPE = (20, 18, 15)


def scan(voxels, spacing_mm=(1, 1, 1)):
    return Volume(voxels[None].astype(np.float32), Grid(voxels.shape, np.diag([*spacing_mm, 1.0])), "a.nii")


@pytest.mark.parametrize(
    ("spacing_mm", "axes"),
    [((1, 1, 1), None), ((2, 0.5, 1), None), ((1, 1, 2.1), "Z"), ((0.4, 1, 1), "X"), ((3, 3, 0.1), "X and Y and Z")],
)
def test_a_spacing_of_more_than_twice_or_less_than_half_is_told_with_its_axes(spacing_mm, axes):
    said = doubts(scan(noise(), spacing_mm), an_input())
    assert len(said) == (axes is not None)
    if axes:
        own = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
        assert said[0] == f"a.nii: voxels of {own} mm are far from the 1 x 1 x 1 mm that the model sees, along {axes}"


def test_axes_are_those_of_the_patient_and_not_of_the_file():
    volume = Volume(noise()[None].astype(np.float32), Grid(SHAPE, OBLIQUE), "a.nii")
    # the file's axes have 1.1, 0.8 and 2.5 mm, and the first two lie along Y and X
    assert "0.8 x 1.1 x 2.5 mm are far from the 1 x 1 x 1 mm" in doubts(volume, an_input())[0]
    assert doubts(volume, an_input(spacing_mm=(0.4, 1.1, 2.5))) == ()


@pytest.mark.parametrize(
    ("shift_mm", "codes", "told"), [(0.4, (1, 1), 0), (0.6, (2, 1), 1), (9, (1, 0), 0), (9, (0, 1), 0)]
)
def test_forms_more_than_half_a_voxel_apart_are_told(tmp_path, shift_mm, codes, told):
    header = nib.Nifti1Header()
    header.set_sform(np.eye(4), codes[0])
    header.set_qform(np.eye(4) + np.array([[0, 0, 0, shift_mm]] + [[0] * 4] * 3), codes[1])
    nib.Nifti1Image(noise(), None, header).to_filename(tmp_path / "a.nii")
    said = doubts(read_scan(tmp_path / "a.nii"), an_input())
    assert len(said) == told
    if told:
        assert said[0].startswith(
            f"{tmp_path / 'a.nii'}: sform and qform of its header lie up to 0.6 mm apart, so that"
        )


def test_a_qform_that_is_turned_is_told_by_its_farthest_corner(tmp_path):
    header, turned = nib.Nifti1Header(), np.eye(4)
    turned[:3, :3] = nib.eulerangles.euler2mat(0.05, 0, 0)
    header.set_sform(np.eye(4), 1)
    header.set_qform(turned, 1)
    nib.Nifti1Image(noise(), None, header).to_filename(tmp_path / "a.nii")
    # the far edge lies 19 and 17 mm from the axis that it is turned about
    (said,) = doubts(read_scan(tmp_path / "a.nii"), an_input())
    assert f"lie up to {2 * np.sin(0.025) * np.hypot(19, 17):.3g} mm apart" in said


def wide(least):
    return an_input(intensity=WindowHU(mode="window_hu", window_hu=(least, 1000)))


INTENSITIES = {
    "CT": (noise(), CT, None),
    "MR for CT": (noise() + 200, CT, "CT has no value below -160, so these are hardly the Hounsfield units"),
    "below": (noise() - 5000, CT, "all of CT lies beyond the model's window of -160 to 240 HU"),
    "above": (noise() + 5000, CT, "all of CT lies beyond the model's window"),
    "positive window": (np.abs(noise()), an_input(), None),
    "CT without air": (noise(), wide(-1000), "CT has no value below -500, so these"),
    "CT with air": (noise() - 500, wide(-1000), None),
    "MR": (noise() + 200, an_input(intensity=ZScore(mode="zscore")), None),
    "one bright voxel": (
        np.eye(1, 20 * 18 * 15).reshape(SHAPE) * 50,
        an_input(intensity=ZScore(mode="zscore")),
        "99.98% of the voxels of CT have one value",
    ),
}


@pytest.mark.parametrize(("voxels", "input", "sentence"), INTENSITIES.values(), ids=INTENSITIES)
def test_intensities_that_cannot_be_right_are_told(voxels, input, sentence):
    said = doubts(scan(voxels), input)
    assert len(said) == (sentence is not None)
    if sentence:
        assert said[0].startswith(f"a.nii: {sentence}") and "\n" not in said[0]


def test_each_channel_is_told_of_by_its_name():
    voxels = np.stack([noise(), noise() + 5000]).astype(np.float32)
    volume = Volume(voxels, Grid(SHAPE, np.eye(4)), "a.nii")
    said = doubts(volume, CT.model_copy(update={"channels": ("Native", "Contrast")}))
    assert len(said) == 1 and "all of Contrast lies beyond" in said[0]


def test_a_real_ct_raises_no_doubt_and_a_real_mr_does_where_a_ct_is_expected(data_root):
    folder = data_root / "fixtures" / "abdomen-example" / "images"
    ct, mr = (read_scan(folder / f"{kind}_abdomen.nii.gz") for kind in ("ct", "mr"))
    assert doubts(ct, CT.model_copy(update={"spacing_mm": ct.grid.spacing_mm})) == ()
    (said,) = doubts(mr, CT.model_copy(update={"spacing_mm": mr.grid.spacing_mm}))
    assert "hardly the Hounsfield units" in said
