"""Headers that are odd, damaged or at odds with themselves: answered, or refused in one sentence."""

import struct
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thresholds import metadata, save_model

from mimzoo.answers import answer
from mimzoo.deploy import Choice, segment_files
from mimzoo.deploy.doubts import doubts
from mimzoo.deploy.memory import Given, fitting
from mimzoo.errors import MimzooError, ScanError
from mimzoo.masks import read_labels
from mimzoo.nifti import read_form, write_voxels
from mimzoo.recipes import Input, WindowHU
from mimzoo.sweep import Sweep
from mimzoo.tasks import make_task
from mimzoo.volume import read_scan, stream

SHAPE = (6, 7, 8)
INPUT = Input(
    channels=("CT",), spacing_mm=(1, 1, 1), intensity=WindowHU(mode="window_hu", window_hu=(0, 300)), crop=(8, 8, 8)
)
TASK, SWEEP = make_task({1: "High"}, None, None), Sweep((8, 8, 8), 0.5)
# Oblique, flipped and anisotropic.
TURNED = np.eye(4)
TURNED[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)[:, [1, 0, 2]] * [-0.9, 0.8, 2.5]
TURNED[:3, 3] = [311.7, -142.3, -987.1]
SHIFTED = TURNED + np.array([[0, 0, 0, 4.0]] + [[0.0] * 4] * 3)
# Where the codes of qform and sform lie in a header, and how.
CODES = {nib.Nifti1Header: (252, "hh"), nib.Nifti2Header: (344, "ii")}
FORMS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
ROWS = ("srow_x", "srow_y", "srow_z")
KINDS = [nib.Nifti1Header, nib.Nifti2Header]


def ramp():
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)


def save(path, codes=(1, 1), sform=TURNED, qform=TURNED, kind=nib.Nifti1Header, endianness="<"):
    """Write a scan with both forms, whatever their codes are."""
    header = kind(endianness=endianness)
    header.set_data_dtype(np.int16)
    header.set_data_shape(SHAPE)
    header.set_sform(sform, 1)
    header.set_qform(qform, 1)
    image = nib.Nifti1Image if kind is nib.Nifti1Header else nib.Nifti2Image
    image(ramp(), None, header).to_filename(path)
    # past nibabel, which would mend them
    place, form = CODES[kind]
    return damaged(path, place, form if endianness == "<" else f">{form}", codes[1], codes[0])


def damaged(path, place, form, *values):
    raw = bytearray(path.read_bytes())
    struct.pack_into(form if form[0] == ">" else f"<{form}", raw, place, *values)
    path.write_bytes(raw)
    return path


def raw_header(path):
    """Return the header as it stands in the file; nibabel would mend it while it reads."""
    content = path.read_bytes()
    kind = nib.Nifti2Header if 540 in (int.from_bytes(content[:4], o) for o in ("little", "big")) else nib.Nifti1Header
    return kind(content[: kind.sizeof_hdr], check=False)


def labelled(path, target):
    """Segment a scan by a threshold, from its header to its mask, as a deployed model does."""
    grid, form = read_form(path, 1)
    sweep, _ = fitting(str(path), Given(grid, np.prod(grid.shape) * form.itemsize), INPUT, TASK, SWEEP, 10**8)
    scan = read_scan(path)
    said = doubts(scan, INPUT)
    labels = answer(TASK, lambda windows: np.concatenate([0.5 - windows, windows - 0.5], 1), stream(scan, INPUT), sweep)
    labels.save(target)
    return said


# --- forms


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (0, 1), (1, 0), (0, 0), (4, 3), (9, 0), (0, 9), (-1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_has_the_forms_of_its_scan(tmp_path, codes, kind):
    scan, mask = save(tmp_path / "a.nii", codes, SHIFTED, kind=kind), tmp_path / "mask.nii"
    labelled(scan, mask)
    expected, found = raw_header(scan), raw_header(mask)
    for name in (*FORMS, *ROWS):
        np.testing.assert_array_equal(found[name], expected[name].astype(found[name].dtype), name)
    np.testing.assert_array_equal(found["pixdim"][:4], expected["pixdim"][:4].astype(np.float32))
    # and so any program shows both in one place
    np.testing.assert_allclose(nib.load(mask).affine, nib.load(scan).affine, rtol=1e-6)
    np.testing.assert_array_equal(read_labels(mask).voxels.shape, SHAPE)
    assert read_form(scan, 1)[0].space == read_form(mask, 1)[0].space


def test_forms_are_byte_for_byte_those_of_the_scan(tmp_path):
    scan, mask = save(tmp_path / "a.nii", (2, 1), SHIFTED), tmp_path / "mask.nii"
    labelled(scan, mask)
    before, after = (path.read_bytes() for path in (scan, mask))
    assert before[252:328] == after[252:328] and before[76:92] == after[76:92]


def test_forms_of_a_big_endian_scan_are_the_same_numbers(tmp_path):
    labelled(save(tmp_path / "a.nii", (2, 1), SHIFTED, endianness=">"), tmp_path / "big.nii")
    labelled(save(tmp_path / "b.nii", (2, 1), SHIFTED), tmp_path / "little.nii")
    assert (tmp_path / "big.nii").read_bytes() == (tmp_path / "little.nii").read_bytes()


@pytest.mark.parametrize("codes", [(6, 0), (0, 6), (32767, 32767)])
def test_codes_that_nobody_knows_are_taken_for_aligned(tmp_path, codes):
    grid, _ = read_form(save(tmp_path / "a.nii", codes), 1)
    assert grid.space == 2
    np.testing.assert_allclose(grid.affine, TURNED, rtol=1e-5, atol=1e-5)


def test_codes_too_long_for_a_mask_are_shortened(tmp_path):
    scan = save(tmp_path / "a.nii", (2**31 - 1, -(2**31)), kind=nib.Nifti2Header)
    labelled(scan, tmp_path / "mask.nii")
    found = raw_header(tmp_path / "mask.nii")
    assert (int(found["sform_code"]), int(found["qform_code"])) == (32767, -32768)


def test_a_spacing_that_cannot_be_is_not_handed_on(tmp_path):
    scan = damaged(save(tmp_path / "a.nii", (1, 0)), 80, "ff", 0.0, np.nan)
    labelled(scan, tmp_path / "mask.nii")
    np.testing.assert_allclose(raw_header(tmp_path / "mask.nii")["pixdim"][1:4], [0.9, 0.8, 2.5], rtol=1e-6)


def test_a_grid_that_was_moved_has_no_forms_of_a_header(tmp_path):
    grid, _ = read_form(save(tmp_path / "a.nii", (2, 1), SHIFTED), 1)
    scan = read_scan(tmp_path / "a.nii")
    prepared = stream(scan, INPUT)
    assert grid.forms and scan.grid.forms and not prepared.grid.forms and not prepared.native.forms
    target = tmp_path / "b.nii"
    write_voxels(target, np.zeros(prepared.grid.shape, np.uint8), prepared.grid)
    np.testing.assert_allclose(nib.load(target).affine, prepared.grid.affine, rtol=1e-6)
    np.testing.assert_allclose(nib.load(target).get_qform(), prepared.grid.affine, atol=1e-4)


# --- what cannot be held


@pytest.mark.parametrize("spacing_mm", [1e17, 1e9, 3e5])
def test_a_scan_that_nothing_could_hold_is_refused_before_it_is_read(tmp_path, spacing_mm):
    scan = save(tmp_path / "a.nii", sform=np.diag([1, 1, spacing_mm, 1]))
    for use in (lambda: labelled(scan, tmp_path / "mask.nii"), lambda: stream(read_scan(scan), INPUT)):
        with pytest.raises(ScanError, match=r"a\.nii: 6 x 7 x .* voxels of 1 x 1 x 1 mm are more than can be held; is"):
            use()
    assert not (tmp_path / "mask.nii").exists()


def test_numbers_that_a_mask_could_not_hold_are_refused(tmp_path):
    wide, thin = TURNED.copy(), TURNED.copy()
    wide[0, 3], thin[:3, 2] = 1e300, TURNED[:3, 2] * 1e-60
    for sform, reason in ((wide, "infinite"), (thin, "must be positive")):
        with pytest.raises(ScanError, match=reason):
            read_form(save(tmp_path / "a.nii", sform=sform, kind=nib.Nifti2Header), 1)


def test_an_odd_scan_stops_no_other_of_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "aligned.nii", (9, 9))
    save(tmp_path / "in" / "damaged.nii", sform=np.diag([1, 1, 1e17, 1]))
    save(tmp_path / "in" / "good.nii")
    model = save_model(tmp_path / "m.onnx", metadata())
    done, failures = segment_files(model, [tmp_path / "in"], tmp_path / "out", choice=Choice("cpu", threads=1))
    assert [path.name for path in done] == ["aligned.nii.gz", "good.nii.gz"]
    assert len(failures) == 1 and "damaged.nii: 6 x 7 x 7e+17 voxels" in failures[0]


# --- damage

NUMBERS = st.sampled_from([0.0, -1.0, 1e-45, 1e-30, 1e-5, 1e5, 1e17, 3e38, np.nan, np.inf, -np.inf])
WORDS = st.integers(-(2**15), 2**15 - 1)
BYTES = st.tuples(st.integers(0, 351), st.just("B"), st.integers(0, 255))
FLOATS = st.tuples(
    st.sampled_from([*range(76, 92, 4), *range(108, 120, 4), *range(256, 328, 4)]), st.just("f"), NUMBERS
)
SHORTS = st.tuples(st.sampled_from([40, 42, 44, 46, 48, 70, 72, 252, 254]), st.just("h"), WORDS)
FILES = [("sform", (1, 0)), ("both", (2, 1)), ("qform", (0, 1)), ("none", (0, 0))]


@given(st.sampled_from(FILES), st.lists(st.one_of(BYTES, FLOATS, SHORTS), min_size=1, max_size=3))
@settings(max_examples=400, deadline=None)
def test_a_damaged_header_gives_a_mask_or_a_sentence_but_never_crashes(tmp_path_factory, whole, damage):
    folder = tmp_path_factory.getbasetemp()
    name, codes = whole
    scan, mask = folder / "damaged.nii", folder / "mask.nii"
    if not (folder / f"{name}.nii").exists():
        save(folder / f"{name}.nii", codes)
    scan.write_bytes((folder / f"{name}.nii").read_bytes())
    for change in damage:
        damaged(scan, *change)
    mask.unlink(missing_ok=True)
    with suppress(ScanError):
        read_labels(scan)
    try:
        labelled(scan, mask)
    except MimzooError as error:
        assert "\n" not in str(error) and not mask.exists()
    else:
        grid, there = read_scan(scan).grid, read_labels(mask).grid
        assert there.shape == grid.shape and there.space == grid.space
        np.testing.assert_array_equal(there.affine, grid.affine)
