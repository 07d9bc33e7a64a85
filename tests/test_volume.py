"""Scans and labels: refusals, geometry against MONAI, intensities, and the way back to the scan's own grid."""

import gzip
import os
import struct
import warnings
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimzoo import volume
from mimzoo.errors import ScanError, ShapeError
from mimzoo.files import replacing
from mimzoo.recipes import Input, Percentile, WindowHU, ZScore

NAMES = {1: "Anterior", 2: "Posterior"}
LABELS = (
    "hippocampus/labelsTr",
    "fixtures/spinalcord/labels",
    "fixtures/abdomen-example/labels",
    "fixtures/prostate-mr/labels",
)


def ramp(shape=(6, 7, 8), dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write(path, voxels=None, affine=None, header=None, kind=nib.Nifti1Image):
    nib.save(kind(ramp() if voxels is None else voxels, np.eye(4) if affine is None else affine, header), path)
    return path


def patched(path, offset, form, *values):
    """Overwrite header fields of an uncompressed NIfTI-1 file, past every check of the writer."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<" + form, raw, offset, *values)
    path.write_bytes(raw)
    return path


def blob(shape, radii, centre=None):
    centre = (np.array(shape) - 1) / 2 if centre is None else centre
    axes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1
    return inside.astype(np.uint8)


def dice(a, b):
    return 2 * ((a > 0) & (b > 0)).sum() / ((a > 0).sum() + (b > 0).sum())


def an_input(spacing_mm=(1.0, 1.0, 1.0), channels=("MR",), intensity=None):
    intensity = intensity or ZScore(mode="zscore")
    return Input(channels=channels, spacing_mm=spacing_mm, intensity=intensity, crop=(8, 8, 8))


@st.composite
def grids(draw, shear=False):
    shape = tuple(draw(st.integers(2, 14)) for _ in range(3))
    spacing = [draw(st.floats(0.3, 5)) for _ in range(3)]
    angles = [draw(st.floats(-np.pi, np.pi)) for _ in range(3)]
    rotation = nib.eulerangles.euler2mat(*angles)
    order = draw(st.sampled_from(list(permutations(range(3)))))
    signs = draw(st.sampled_from(list(product([1, -1], repeat=3))))
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, order] * signs * spacing
    if shear:
        affine[:3, 1] += 0.2 * affine[:3, 0]
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return volume.Grid(shape, affine)


# --- refusals


REFUSED = {
    "a name that is no NIfTI": (lambda p: p / "scan.dcm", "must end in .nii"),
    "missing": (lambda p: p / "none.nii.gz", "no such file"),
    "folder": (lambda p: (p / "d.nii").mkdir() or p / "d.nii", "a folder"),
    "empty": (lambda p: touch(p / "a.nii", b""), "not a NIfTI file"),
    "text": (lambda p: touch(p / "a.nii", b"hello" * 200), "not a NIfTI file"),
    "gzipped text": (lambda p: touch(p / "a.nii.gz", gzip.compress(b"hello" * 200)), "not a NIfTI file"),
    "header cut short": (lambda p: cut(write(p / "a.nii"), 200), "not a NIfTI file"),
    "2D": (lambda p: write(p / "a.nii", ramp((6, 7))), "2D"),
    "one slice": (lambda p: write(p / "a.nii", ramp((6, 7, 1))), "2D"),
    "4D": (lambda p: write(p / "a.nii", ramp((6, 7, 8, 2))), "1 channel"),
    "5D": (lambda p: write(p / "a.nii", ramp((6, 7, 8, 2, 2))), "1 channel"),
    "NaN": (lambda p: write(p / "a.nii", np.where(ramp() == 9, np.nan, ramp())), "NaN"),
    "infinite": (lambda p: write(p / "a.nii", np.where(ramp() == 9, np.inf, ramp())), "infinite"),
    "beyond float32": (lambda p: write(p / "a.nii", ramp(dtype=float) * 1e300), "infinite"),
    "zeros": (lambda p: write(p / "a.nii", ramp() * 0), "all voxels"),
    "constant": (lambda p: write(p / "a.nii", ramp() * 0 + 7), "are 7"),
    "complex": (lambda p: write(p / "a.nii", ramp(dtype=np.complex64)), "complex64"),
    "RGB": (lambda p: write(p / "a.nii", np.zeros((4, 5, 6), [(c, "u1") for c in "RGB"])), "RGB"),
    "long double": (lambda p: patched(write(p / "a.nii"), 70, "h", 1536), "float128"),
    "unknown type": (lambda p: patched(write(p / "a.nii"), 70, "h", 999), "unknown code 999"),
    "flat affine": (lambda p: sform(write(p / "a.nii"), [1, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]), "spacing"),
    "axes in a plane": (lambda p: sform(write(p / "a.nii"), [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]), "one plane"),
    "NaN affine": (lambda p: sform(write(p / "a.nii"), [1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0]), "NaN"),
    "infinite affine": (lambda p: sform(write(p / "a.nii"), [1, 0, 0, 0], [0, np.inf, 0, 0], [0, 0, 1, 0]), "infinite"),
    "spacing 0": (lambda p: no_forms(write(p / "a.nii"), pixdim=0.0), "spacing"),
    "spacing below 0": (lambda p: no_forms(write(p / "a.nii"), pixdim=-1.0), "spacing"),
    "spacing NaN": (lambda p: no_forms(write(p / "a.nii"), pixdim=np.nan), "spacing"),
    "metres": (lambda p: patched(write(p / "a.nii"), 123, "B", 1), "metres"),
    "bad slope": (lambda p: patched(write(p / "a.nii"), 112, "ff", 2, np.inf), "cannot be read"),
    "no axes": (lambda p: patched(write(p / "a.nii"), 40, "h", 0), "not|cannot"),
    "axis of length 0": (lambda p: patched(write(p / "a.nii"), 42, "h", 0), "which cannot be"),
    "data inside the header": (lambda p: patched(write(p / "a.nii"), 108, "f", 0), "offset"),
    "data nowhere": (lambda p: patched(write(p / "a.nii"), 108, "f", np.nan), "cannot be read"),
    "truncated": (lambda p: cut(write(p / "a.nii"), -100), "cannot hold"),
    "truncated gzip": (lambda p: cut(write(p / "a.nii.gz"), -100), "cannot be read"),
    "gzip of a truncated file": (lambda p: repacked(cut(write(p / "a.nii"), -100)), "ends early"),
    "gzip checksum": (lambda p: flipped(write(p / "a.nii.gz"), -6), "CRC"),
    "too many voxels": (lambda p: patched(write(p / "a.nii"), 42, "hhh", 10000, 10000, 10000), "cannot hold"),
    "too many for gzip": (lambda p: repacked(patched(write(p / "a.nii"), 42, "hhh", 10000, 10000, 10000)), "cannot"),
    "header and image apart": (lambda p: pair(p), "pairs"),
}


def touch(path, content):
    path.write_bytes(content)
    return path


def cut(path, length):
    return touch(path, path.read_bytes()[:length])


def flipped(path, index):
    raw = bytearray(path.read_bytes())
    raw[index] ^= 0xFF
    return touch(path, bytes(raw))


def repacked(path):
    return touch(path.with_name("packed.nii.gz"), gzip.compress(path.read_bytes()))


def sform(path, *rows):
    return patched(path, 280, "12f", *rows[0], *rows[1], *rows[2])


def no_forms(path, pixdim):
    return patched(patched(path, 252, "hh", 0, 0), 80, "f", pixdim)


def pair(folder):
    nib.save(nib.Nifti1Pair(ramp(), np.eye(4)), folder / "a.img")
    return (folder / "a.hdr").rename(folder / "b.nii")


@pytest.mark.parametrize("make, reason", REFUSED.values(), ids=REFUSED)
def test_a_scan_that_must_not_be_used_is_refused_in_one_sentence(tmp_path, make, reason):
    path = make(tmp_path)
    with pytest.raises(ScanError, match=reason) as caught:
        volume.read_scan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scan_larger_than_memory_is_refused_before_anything_is_allocated(tmp_path):
    path = patched(write(tmp_path / "huge.nii"), 42, "hhh", 8192, 8192, 8192)
    try:
        os.truncate(path, 4 * 8192**3 + 352)  # a sparse file: the bytes are claimed, not stored
    except OSError:
        pytest.skip("no sparse files here")
    with pytest.raises(ScanError, match="GB of memory"):
        volume.read_scan(path)


def test_the_wrong_number_of_channels_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz", ramp((6, 7, 8, 4)))
    assert volume.read_scan(path, channels=4).voxels.shape == (4, 6, 7, 8)
    with pytest.raises(ScanError, match="6 x 7 x 8 x 4 has 4 channels where 3 channels are expected"):
        volume.read_scan(path, channels=3)


def test_broken_inputs_of_a_real_data_set_do_not_pass_as_pairs(data_root):
    broken = data_root / "hippocampus" / "broken"
    image = volume.read_scan(broken / "image_hippocampus_118.nii.gz")
    for name in ("label_hippocampus_010.nii.gz", "label_hippocampus_281.nii.gz"):
        labels = volume.read_labels(broken / name)
        with pytest.raises(ScanError, match=f"image_hippocampus_118.*shape.*{name}"):
            volume.check_pair(image, labels)


def test_a_pair_with_another_affine_is_refused_but_header_rounding_is_not():
    grid = volume.Grid((6, 7, 8), np.diag([0.7, 0.7, 3.0, 1]))
    scan = volume.Volume(ramp()[None], grid, "image.nii")
    near, far = grid.affine.copy(), grid.affine.copy()
    near[:3, :3] += 1e-7
    far[2, 3] += 3
    volume.check_pair(scan, volume.LabelMap(ramp(dtype=np.uint8), volume.Grid(grid.shape, near)))
    with pytest.raises(ScanError, match=r"image.nii and its labels label.nii lie up to 3 mm apart"):
        volume.check_pair(scan, volume.LabelMap(ramp(dtype=np.uint8), volume.Grid(grid.shape, far), {}, "label.nii"))


# --- headers


def test_a_scan_reads_as_nibabel_reads_it(data_root):
    for path in [*(data_root / "fixtures").glob("*/images/*.nii.gz")][::4]:
        scan, expected = volume.read_scan(path), nib.load(path)
        np.testing.assert_array_equal(scan.voxels[0], expected.get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(scan.grid.affine, expected.affine)
        assert scan.grid.shape == expected.shape
        assert scan.voxels.flags.c_contiguous and scan.voxels.flags.writeable


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_number_type_is_read(tmp_path, dtype, kind):
    voxels = (ramp() % 100).astype(dtype)
    scan = volume.read_scan(write(tmp_path / "a.nii.gz", voxels, kind=kind, header=typed(kind, dtype)))
    np.testing.assert_array_equal(scan.voxels[0], voxels)


def typed(kind, dtype):
    header = kind.header_class()
    header.set_data_dtype(dtype)
    return header


def test_big_endian_files_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    path = write(tmp_path / "a.nii", ramp(dtype=np.int16), np.diag([1, 2, 3, 1]), header)
    assert path.read_bytes()[:4] == b"\x00\x00\x01\x5c"
    scan = volume.read_scan(path)
    np.testing.assert_array_equal(scan.voxels[0], ramp())
    assert scan.grid.spacing_mm == (1, 2, 3)


def test_slope_and_intercept_are_applied(tmp_path):
    path = patched(write(tmp_path / "ct.nii", ramp(dtype=np.int16)), 112, "ff", 2, -1024)
    np.testing.assert_array_equal(volume.read_scan(path).voxels[0], ramp() * 2 - 1024)


def test_a_trailing_axis_of_length_one_is_no_channel(tmp_path):
    path = write(tmp_path / "a.nii.gz", ramp((6, 7, 8, 1)))
    assert volume.read_scan(path).voxels.shape == (1, 6, 7, 8)
    path = write(tmp_path / "b.nii.gz", ramp((6, 7, 8, 1, 3)))
    scan = volume.read_scan(path, channels=3)
    np.testing.assert_array_equal(scan.voxels, ramp((6, 7, 8, 3)).transpose(3, 0, 1, 2))


def test_gzip_is_told_by_content_not_by_name(tmp_path):
    path = write(tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.read_scan(path).voxels[0], ramp())


AFFINE = np.array([[0, 0, -2.0, 10], [3, 0, 0, -20], [0, 1.5, 0, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize("sform_code, qform_code", [(1, 0), (0, 1), (2, 1), (4, 4)])
def test_sform_goes_before_qform_and_the_mask_has_both(tmp_path, sform_code, qform_code):
    header = nib.Nifti1Header()
    header.set_data_shape((6, 7, 8))
    header.set_qform(AFFINE if not sform_code else np.eye(4), qform_code)
    header.set_sform(AFFINE, sform_code)
    path = write(tmp_path / "a.nii.gz", affine=None, header=header)
    image = nib.Nifti1Image(ramp(), None, header)
    nib.save(image, path)
    scan = volume.read_scan(path)
    np.testing.assert_allclose(scan.grid.affine, AFFINE, atol=1e-5)
    labels = volume.LabelMap(np.zeros((6, 7, 8), np.uint8), scan.grid)
    labels.save(tmp_path / "b.nii.gz")
    written = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(written.affine, scan.grid.affine)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (sform_code, qform_code)
    np.testing.assert_allclose(written.get_qform(), np.eye(4) if sform_code else AFFINE, atol=1e-5)


def test_without_any_form_the_spacing_places_the_scan_and_its_mask_alike(tmp_path):
    path = no_forms(write(tmp_path / "a.nii", affine=np.diag([2, 2, 3, 1])), pixdim=2.0)
    scan = volume.read_scan(path)
    np.testing.assert_array_equal(scan.grid.affine, nib.load(path).affine)
    volume.LabelMap(np.zeros(scan.grid.shape, np.uint8), scan.grid).save(tmp_path / "b.nii")
    written = nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(written.affine, scan.grid.affine)
    assert int(written.header["sform_code"]) == int(written.header["qform_code"]) == 0


def test_a_qfac_of_zero_reads_as_one(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((6, 7, 8))
    header.set_qform(AFFINE, 1)
    nib.save(nib.Nifti1Image(ramp(), None, header), tmp_path / "a.nii")
    qfac = float(header["pixdim"][0])
    path = patched(tmp_path / "a.nii", 76, "f", 0.0 if qfac == 1 else qfac)
    np.testing.assert_allclose(volume.read_scan(path).grid.affine, AFFINE, atol=1e-5)


def test_a_zero_pixdim_does_not_matter_beside_an_sform(tmp_path):
    path = patched(write(tmp_path / "a.nii", affine=np.diag([2, 2, 3, 1])), 80, "f", 0.0)
    assert volume.read_scan(path).grid.spacing_mm == (2, 2, 3)


def test_replacing_removes_its_temporary_on_any_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


# --- several files

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)[:, [1, 0, 2]] * [-0.9, 0.8, 1.7]
OBLIQUE[:3, 3] = [9, -8, 35] - OBLIQUE[:3, :3] @ [14.5, 16.5, 12.5]


def height(shape, affine):
    """How high (mm) each voxel lies in the world, plus twice how far to the right: a scan that betrays its place."""
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    return (index @ affine.T @ [2, 0, 1, 0]).astype(np.float32)


def test_each_file_is_a_channel_in_the_order_given(tmp_path):
    paths = [write(tmp_path / f"{name}.nii.gz", ramp() + 1000 * n, AFFINE) for n, name in enumerate("dca")]
    for order in permutations(range(3)):
        scan = volume.read_scan([str(paths[n]) for n in order], 3)
        np.testing.assert_array_equal(scan.voxels, np.stack([ramp() + 1000 * n for n in order]))
        np.testing.assert_array_equal(scan.grid.affine, AFFINE)
        assert scan.name == str(paths[order[0]])
        assert scan.voxels.dtype == np.float32 and scan.voxels.flags.c_contiguous


def test_one_file_in_a_list_is_that_file(tmp_path):
    path = write(tmp_path / "a.nii.gz", ramp((6, 7, 8, 3)))
    np.testing.assert_array_equal(volume.read_scan([path], 3).voxels, volume.read_scan(path, 3).voxels)


def test_the_first_file_decides_the_grid_and_the_others_are_brought_to_their_place_on_it(tmp_path):
    dwi = write(tmp_path / "dwi.nii.gz", height((9, 8, 7), AFFINE), AFFINE)
    flair = write(tmp_path / "flair.nii.gz", height((30, 34, 26), OBLIQUE), OBLIQUE)
    scan = volume.read_scan([dwi, flair], 2)
    np.testing.assert_allclose(scan.grid.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(scan.voxels[0], height((9, 8, 7), AFFINE))
    reached = np.abs(scan.voxels[1] - scan.voxels[0]) < 1e-3
    assert 0.2 < reached.mean() < 1
    # The rest lies outside FLAIR, but for the half voxel around it.
    air = scan.voxels[1] == height((30, 34, 26), OBLIQUE).min()
    assert air.any() and (reached | air).mean() > 0.85
    back = volume.read_scan([flair, dwi], 2)
    np.testing.assert_allclose(back.grid.affine, OBLIQUE, atol=1e-5)
    assert back.voxels.shape == (2, 30, 34, 26)


def test_a_channel_a_hundredth_of_a_voxel_away_is_not_interpolated(tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.01
    paths = write(tmp_path / "a.nii.gz", affine=AFFINE), write(tmp_path / "b.nii.gz", ramp() ** 2, shifted)
    np.testing.assert_array_equal(volume.read_scan(paths, 2).voxels[1], ramp() ** 2)


def test_a_real_scan_agrees_with_itself_on_another_grid(data_root, tmp_path):
    path = data_root / "fixtures" / "spinalcord" / "images" / "t2w.nii.gz"
    scan = volume.read_scan(path)
    half = scan.grid.affine.copy()
    half[:3, :3] *= 2
    coarse = volume.Volume(scan.voxels[:, ::2, ::2, ::2], volume.Grid(scan.voxels[0, ::2, ::2, ::2].shape, half))
    nib.save(nib.Nifti1Image(coarse.voxels[0], half), tmp_path / "coarse.nii.gz")
    both = volume.read_scan([tmp_path / "coarse.nii.gz", path], 2)
    np.testing.assert_allclose(both.voxels[1], both.voxels[0], atol=1e-3 * np.ptp(scan.voxels))


FAR = np.array([[1, 0, 0, 99], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
BAD_SETS = {
    "too few": (lambda p: [write(p / "a.nii"), write(p / "b.nii")], r"2 files \(.*a\.nii, .*b\.nii\) where 3 channel"),
    "too many": (lambda p: [write(p / f"{n}.nii") for n in "abcd"], "4 files"),
    "none": (lambda p: [], "0 files"),
    "4D": (
        lambda p: [write(p / "a.nii"), write(p / "b.nii", ramp((6, 7, 8, 2))), write(p / "c.nii")],
        "b.nii.*1 channel",
    ),
    "missing": (lambda p: [write(p / "a.nii"), write(p / "b.nii"), p / "c.nii"], r"c\.nii: no such file"),
    "NaN": (lambda p: [write(p / "a.nii"), write(p / "b.nii", ramp() * np.nan), p / "c.nii"], r"b\.nii: .*NaN"),
    "empty": (lambda p: [write(p / "a.nii"), write(p / "b.nii"), write(p / "c.nii", ramp() * 0)], r"c\.nii: all vox"),
    "elsewhere": (
        lambda p: [write(p / "a.nii"), write(p / "b.nii"), write(p / "c.nii", affine=FAR)],
        r"c\.nii and the grid .* do not overlap",
    ),
    "nowhere": (
        lambda p: [write(p / "a.nii"), write(p / "b.nii"), no_forms(write(p / "c.nii", ramp((7, 8, 9))), 1.0)],
        r"c\.nii lies on another grid .* does not say where",
    ),
}


@pytest.mark.parametrize(("make", "reason"), BAD_SETS.values(), ids=BAD_SETS)
def test_files_that_cannot_be_one_scan_are_refused_in_one_sentence(tmp_path, make, reason):
    with pytest.raises(ScanError, match=reason) as caught:
        volume.read_scan(make(tmp_path), 3)
    assert "\n" not in str(caught.value)


# --- geometry


@given(grids(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_orientation_round_trips_exactly(grid, seed):
    voxels = np.random.default_rng(seed).integers(0, 255, (2, *grid.shape)).astype(np.uint8)
    ras, ras_grid, orientation = volume.to_ras(voxels, grid)
    assert ras.shape[1:] == ras_grid.shape
    directions = ras_grid.affine[:3, :3] / ras_grid.spacing_mm
    assert nib.orientations.aff2axcodes(ras_grid.affine) == ("R", "A", "S")
    assert sorted(np.abs(directions).ravel()) == pytest.approx(
        sorted(np.abs(grid.affine[:3, :3] / grid.spacing_mm).ravel()), abs=1e-9
    )
    back = volume.from_ras(ras, orientation)
    np.testing.assert_array_equal(back, voxels)


@given(grids(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_voxel_keeps_its_place_in_the_world(grid, seed):
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij")).astype(float)
    ras, ras_grid, _ = volume.to_ras(index, grid)
    place = np.random.default_rng(seed).integers(0, ras_grid.shape)
    was = ras[(slice(None), *place)]
    np.testing.assert_allclose(ras_grid.affine @ [*place, 1], grid.affine @ [*was, 1], atol=1e-4)


@given(grids(shear=True), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_labels_at_equal_spacing_round_trip_to_identity(grid, seed):
    voxels = np.random.default_rng(seed).integers(0, 4, grid.shape).astype(np.uint8)
    scan = volume.Volume(voxels[None].astype(np.float32) + np.arange(grid.shape[0])[:, None, None] + 1, grid)
    spacing_mm = volume.to_ras(voxels, grid)[1].spacing_mm
    prepared = volume.prepare(scan, an_input(spacing_mm))
    labels = volume.prepare_labels(volume.LabelMap(voxels, grid, NAMES), spacing_mm)
    np.testing.assert_array_equal(labels.grid.affine, prepared.grid.affine)
    back = prepared.restore(labels.voxels, NAMES)
    np.testing.assert_array_equal(back.voxels, voxels)
    np.testing.assert_array_equal(back.grid.affine, grid.affine)
    assert back.names == NAMES and back.voxels.flags.c_contiguous


@given(grids(shear=True), st.tuples(*[st.floats(0.4, 4)] * 3), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_spacing_gives_scan_and_labels_one_grid_and_leads_back_to_the_scans(grid, spacing_mm, seed):
    voxels = np.random.default_rng(seed).integers(0, 4, grid.shape).astype(np.uint8)
    scan = volume.Volume(voxels[None].astype(np.float32) + np.arange(grid.shape[0])[:, None, None] + 1, grid)
    prepared = volume.prepare(scan, an_input(spacing_mm))
    labels = volume.prepare_labels(volume.LabelMap(voxels, grid), spacing_mm)
    assert labels.voxels.shape == prepared.voxels.shape[1:] == prepared.grid.shape == labels.grid.shape
    assert prepared.grid.spacing_mm == pytest.approx(spacing_mm, abs=1.1e-3)
    assert set(np.unique(labels.voxels)) <= set(np.unique(voxels))
    back = prepared.restore(labels.voxels)
    assert back.voxels.shape == grid.shape
    np.testing.assert_allclose(back.grid.affine, grid.affine, atol=1e-4)


def monai_ras_spacing(voxels, affine, spacing_mm):
    from monai.data import MetaTensor
    from monai.transforms import Orientation, Spacing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = Orientation("RAS", labels=None)(MetaTensor(voxels, affine=affine))
        tensor = Spacing(spacing_mm, mode="bilinear", padding_mode="border")(tensor)
    return tensor.numpy(), tensor.affine.numpy()


@given(grids(), st.tuples(*[st.floats(0.4, 4)] * 3), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_resampling_agrees_with_monai(grid, spacing_mm, seed):
    voxels = np.random.default_rng(seed).random((2, *grid.shape), np.float32)
    oriented, native, _ = volume.to_ras(voxels, grid)
    # Where a length falls half-way between two numbers of voxels, the last bit decides which one MONAI takes.
    steps = (np.array(native.shape) - 1) * native.spacing_mm / spacing_mm
    assume((np.abs(steps % 1 - 0.5) > 1e-5).all())
    expected, affine = monai_ras_spacing(voxels, grid.affine, spacing_mm)
    actual, target = volume.resample_linear(oriented, native, spacing_mm)
    np.testing.assert_allclose(target.affine, affine, atol=1e-4)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_real_scans_agree_with_monai(data_root):
    for name in ("spinalcord/images/t2w", "abdomen-example/images/mr_abdomen"):
        scan = volume.read_scan(data_root / "fixtures" / f"{name}.nii.gz")
        expected, affine = monai_ras_spacing(scan.voxels, scan.grid.affine, (1.5, 2.0, 2.5))
        oriented, native, _ = volume.to_ras(scan.voxels, scan.grid)
        actual, target = volume.resample_linear(oriented, native, (1.5, 2.0, 2.5))
        np.testing.assert_allclose(target.affine, affine, atol=1e-4)
        np.testing.assert_allclose(actual, expected, atol=1e-3 * np.ptp(expected))


def test_a_psr_scan_is_reoriented_and_its_mask_lands_in_the_scans_own_grid(data_root):
    folder = data_root / "fixtures" / "spinalcord"
    scan, labels = volume.read_scan(folder / "images/t2w.nii.gz"), volume.read_labels(folder / "labels/t2w.nii.gz")
    assert nib.orientations.aff2axcodes(scan.grid.affine) == ("P", "S", "R")
    prepared = volume.prepare(scan, an_input())
    assert nib.orientations.aff2axcodes(prepared.grid.affine) == ("R", "A", "S")
    assert prepared.voxels.shape == (1, 52, 60, 55)
    back = prepared.restore(volume.prepare_labels(labels, (1, 1, 1)).voxels)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    np.testing.assert_array_equal(back.grid.affine, scan.grid.affine)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 1.7])
@given(grids())
@settings(max_examples=5, deadline=None)
def test_a_smooth_blob_survives_a_coarser_spacing(ratio, grid):
    shape = (64, 60, 56)
    grid = volume.Grid(shape, grid.affine)
    labels = volume.LabelMap(blob(shape, (26, 24, 22)), grid)
    native = volume.to_ras(labels.voxels, grid)[1]
    spacing_mm = tuple(ratio * s for s in native.spacing_mm)
    scan = volume.Volume(labels.voxels[None].astype(np.float32), grid)
    back = volume.prepare(scan, an_input(spacing_mm)).restore(volume.prepare_labels(labels, spacing_mm).voxels)
    assert dice(back.voxels, labels.voxels) >= 0.97
    assert float(back.voxels.sum()) == pytest.approx(float(labels.voxels.sum()), rel=0.02)


# What hard labels allow: structures ten voxels wide cannot keep their surface at twice the spacing.
FLOORS = {"hippocampus": 0.86, "spinalcord": 0.87, "abdomen-example": 0.91, "prostate-mr": 0.96}


def label_files(data_root):
    return [path for folder in LABELS for path in sorted((data_root / folder).glob("*.nii.gz"))[::40]]


def test_real_labels_at_half_the_spacing_come_back_exactly(data_root):
    for path in label_files(data_root):
        labels = volume.read_labels(path)
        oriented, native, _ = volume.to_ras(labels.voxels, labels.grid)
        finer = volume.spaced(native, [s / 2 for s in native.spacing_mm])
        back = volume.resample_labels(volume.resample_labels(oriented, native, finer), finer, native)
        np.testing.assert_array_equal(back, oriented)


def test_real_labels_at_twice_the_spacing_keep_their_overlap_and_volume(data_root):
    for path in label_files(data_root):
        labels = volume.read_labels(path)
        oriented, native, _ = volume.to_ras(labels.voxels, labels.grid)
        coarser = volume.spaced(native, [s * 2 for s in native.spacing_mm])
        back = volume.resample_labels(volume.resample_labels(oriented, native, coarser), coarser, native)
        floor = next(v for k, v in FLOORS.items() if k in path.parts)
        assert dice(back, oriented) >= floor, path
        assert np.count_nonzero(back) == pytest.approx(np.count_nonzero(oriented), rel=0.15), path


def test_real_labels_at_twice_the_spacing_come_back_better_than_by_nearest_neighbours(data_root):
    gained = []
    for path in label_files(data_root):
        labels = volume.read_labels(path)
        oriented, native, _ = volume.to_ras(labels.voxels, labels.grid)
        coarser = volume.spaced(native, [s * 2 for s in native.spacing_mm])
        there = volume.resample_labels(oriented, native, coarser)
        # the coarse voxel in which the centre of each fine one lies
        near = there[np.ix_(*(np.arange(n) * m // n for n, m in zip(oriented.shape, there.shape, strict=True)))]
        gained.append(dice(volume.resample_labels(there, coarser, native), oriented) - dice(near, oriented))
    assert np.mean(gained) > 0.01


def test_label_resampling_is_the_argmax_of_each_class_resampled():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (9, 10, 11)).astype(np.uint8)
    grid = volume.Grid(labels.shape, np.diag([1.0, 1.3, 0.9, 1]))
    target = volume.spaced(grid, (0.61, 0.83, 1.13))
    shares = [
        volume.resample_linear((labels == c)[None].astype(np.float32), grid, (0.61, 0.83, 1.13))[0][0] for c in range(4)
    ]
    ranked = np.sort(shares, axis=0)
    clear = ranked[-1] - ranked[-2] > 0.02
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(volume.resample_labels(labels, grid, target)[clear], np.argmax(shares, axis=0)[clear])


def test_labels_only_move_between_grids_that_point_the_same_way():
    grid = volume.Grid((6, 7, 8), np.eye(4))
    with pytest.raises(ShapeError, match="same way"):
        volume.resample_labels(np.zeros((6, 7, 8), np.uint8), grid, volume.Grid((6, 7, 8), np.diag([1.0, -1, 1, 1])))


def test_a_spacing_within_a_micrometre_is_left_alone():
    voxels = ramp()[None]
    grid = volume.Grid((6, 7, 8), np.diag([1.0004, 1, 1, 1]))
    same, target = volume.resample_linear(voxels, grid, (1, 1, 1))
    assert same is voxels
    np.testing.assert_array_equal(target.affine, grid.affine)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
@settings(max_examples=40, deadline=None)
def test_padding_is_centred_and_crops_back(shape, size):
    voxels = np.random.default_rng(0).random((2, *shape), np.float32)
    padded, inside = volume.pad_to(voxels, size, (-1, -2))
    assert padded.shape[1:] == tuple(map(max, shape, size))
    np.testing.assert_array_equal(padded[inside], voxels)
    outside = np.ones(padded.shape, bool)
    outside[inside] = False
    assert set(np.unique(padded[0][outside[0]])) <= {-1} and set(np.unique(padded[1][outside[1]])) <= {-2}
    for cut_out, have, want in zip(inside[1:], padded.shape[1:], shape, strict=True):
        assert cut_out.start == (have - want) // 2


# --- intensities


def test_window_agrees_with_monai():
    from monai.transforms import ScaleIntensityRange

    voxels = np.random.default_rng(0).normal(0, 400, (1, 9, 9, 9)).astype(np.float32)
    actual = volume.normalise(voxels, WindowHU(mode="window_hu", window_hu=(-175, 250)))
    expected = ScaleIntensityRange(-175, 250, 0, 1, clip=True)(voxels).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert actual.dtype == np.float32 and actual.min() == 0 and actual.max() == 1


@pytest.mark.parametrize("which", ["all", "nonzero"])
def test_zscore_agrees_with_monai(which):
    from monai.transforms import NormalizeIntensity

    voxels = np.random.default_rng(0).normal(500, 100, (2, 9, 9, 9)).astype(np.float32)
    voxels[:, :3] = 0
    before = voxels.copy()
    actual = volume.normalise(voxels, ZScore(mode="zscore", voxels=which))
    expected = NormalizeIntensity(nonzero=which == "nonzero", channel_wise=True)(voxels.copy()).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    np.testing.assert_array_equal(voxels, before)
    assert (actual[:, :3] == 0).all() == (which == "nonzero")


def test_percentiles_agree_with_monai():
    from monai.transforms import ScaleIntensityRangePercentiles

    voxels = np.random.default_rng(0).gamma(2, 50, (1, 12, 12, 12)).astype(np.float32)
    actual = volume.normalise(voxels, Percentile(mode="percentile", percentiles=(1, 99)))
    expected = ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)(voxels).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_uncalibrated_intensities_of_any_size_are_normalised_alike():
    voxels = np.random.default_rng(0).random((1, 20, 20, 20)).astype(np.float32)
    for mode in (ZScore(mode="zscore"), Percentile(mode="percentile")):
        small, large = (volume.normalise(voxels * k, mode) for k in (1.0, 1.7e6))
        np.testing.assert_allclose(small, large, atol=1e-4)


@pytest.mark.parametrize(
    "mode", [ZScore(mode="zscore"), ZScore(mode="zscore", voxels="nonzero"), Percentile(mode="percentile")]
)
def test_a_channel_without_contrast_is_refused(mode):
    voxels = np.ones((1, 5, 5, 5), np.float32)
    voxels[0, 0, 0, 0] = 0 if mode.mode == "zscore" and mode.voxels == "nonzero" else 1
    with pytest.raises(ScanError, match=r"scan.nii.*no contrast"):
        volume.normalise(voxels, mode, "scan.nii")


def test_prepare_names_the_scan_and_the_channels_it_expected():
    scan = volume.Volume(ramp()[None], volume.Grid((6, 7, 8), np.eye(4)), "scan.nii")
    with pytest.raises(ScanError, match=r"scan.nii: 1 channel\(s\) where 2 \(T1, T2\)"):
        volume.prepare(scan, an_input(channels=("T1", "T2")))


def test_prepare_refuses_a_spacing_that_memory_cannot_hold():
    scan = volume.Volume(ramp()[None], volume.Grid((6, 7, 8), np.diag([100.0, 100, 100, 1])), "scan.nii")
    with pytest.raises(ScanError, match=r"resampling to 0.1 x 0.1 x 0.1 mm needs"):
        volume.prepare(scan, an_input((0.1, 0.1, 0.1)))


def test_intensities_are_normalised_before_resampling():
    voxels = np.zeros((1, 8, 8, 8), np.float32)
    voxels[0, ::2] = 1000
    scan = volume.Volume(voxels, volume.Grid((8, 8, 8), np.eye(4)))
    window = WindowHU(mode="window_hu", window_hu=(0, 100))
    prepared = volume.prepare(scan, an_input((0.5, 1, 1), intensity=window))
    np.testing.assert_allclose(prepared.voxels[0, 1::2, 0, 0], 0.5)


MODES = [
    WindowHU(mode="window_hu", window_hu=(-100, 300)),
    ZScore(mode="zscore"),
    ZScore(mode="zscore", voxels="nonzero"),
    Percentile(mode="percentile"),
]


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (1.7, 0.8, 1.3)])
@pytest.mark.parametrize("intensity", MODES)
def test_a_streamed_scan_is_the_prepared_one_whatever_it_is_held_in(spacing_mm, intensity):
    whole = np.random.default_rng(0).integers(-500, 900, (1, 21, 30, 17)).astype(np.int16)
    grid = volume.Grid((21, 30, 17), np.diag([-1.0, 1.1, 1, 1]))
    given = an_input(spacing_mm, intensity=intensity)
    expected = volume.prepare(volume.Volume(whole.astype(np.float32), grid), given)
    streamed = volume.stream(volume.Volume(whole, grid), given)
    assert streamed.voxels.shape == expected.voxels.shape
    np.testing.assert_array_equal(streamed.voxels.whole(), expected.voxels)
    np.testing.assert_array_equal(streamed.voxels[:, 5:9, 3:11, 2:8], expected.voxels[:, 5:9, 3:11, 2:8])
    labels = (expected.voxels[0] > 0.3).astype(np.uint8)
    np.testing.assert_array_equal(streamed.restore(labels).voxels, expected.restore(labels).voxels)


def test_importing_volume_leaves_torch_alone(tmp_path):
    import subprocess
    import sys

    code = "import sys, mimzoo.volume; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
