"""Pieces and holes of masks: what goes and what stays, by the same counts that scipy finds."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from thresholds import OBLIQUE

from mimzoo.deploy.components import Polish, amounts, fitted, polished
from mimzoo.errors import MimzooError
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.volume import Grid

SHAPE = (12, 11, 10)
NAMES = {1: "Liver", 2: "Tumour"}
CORNERS, FACES = np.ones((3, 3, 3)), ndimage.generate_binary_structure(3, 1)

needs_cc3d = pytest.mark.skipif(find_spec("cc3d") is None, reason="needs connected-components-3d")


def a_map(voxels, affine=None):
    return LabelMap(voxels, Grid(voxels.shape, np.eye(4) if affine is None else affine), NAMES)


def any_labels(seed):
    return np.random.default_rng(seed).choice(3, SHAPE, p=[0.6, 0.25, 0.15]).astype(np.uint8)


# --- what is asked for


def test_all_stands_for_the_labels_that_are_not_named():
    polish = Polish({"all": 0.5, "Liver": 5.0}, ("all",), ("Tumour",))
    expected = Polish({"Liver": 5.0, "Tumour": 0.5}, ("Liver", "Tumour"), ("Tumour",))
    pytest.importorskip("cc3d")
    assert fitted(polish, ["Liver", "Tumour"]) == expected
    assert not fitted(Polish(), ["Liver"]) and expected


@pytest.mark.parametrize(
    ("polish", "reason"),
    [
        (Polish({"Livr": 1.0}), "--minimum-ml: the model has no label 'Livr'; did you mean 'Liver'?"),
        (Polish(largest_component=("liver",)), "--largest-component: the model has no label 'liver'; did you mean"),
        (Polish(fill_holes=("Spleen",)), "--fill-holes: the model has no label 'Spleen'; known: Liver, Tumour, all"),
    ],
)
def test_a_label_that_the_model_does_not_have_is_refused(polish, reason):
    with pytest.raises(MimzooError, match=f"^{reason}".replace("?", r"\?")):
        fitted(polish, ["Liver", "Tumour"])


def test_without_the_package_it_is_refused_before_anything_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "cc3d", None)
    with pytest.raises(MimzooError, match=r"needs connected-components-3d; pip install 'mimzoo\[deploy-components\]'"):
        fitted(Polish(fill_holes=("all",)), ["Liver"])
    assert not fitted(Polish(), ["Liver"])


def test_amounts_are_read_as_people_write_them():
    assert amounts(["0.5", "Liver=5", "a=b=1e-3"]) == {"all": 0.5, "Liver": 5.0, "a=b": 0.001}


@pytest.mark.parametrize("text", ["", "Liver", "Liver=", "-1", "0", "nan", "inf", "Liver=much"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(MimzooError, match="is no amount; write 0.5 for every label, or Liver=5 for one"):
        amounts([text])


# --- what is done


def expected_pieces(voxels, value, least, only_largest):
    """Where a label stays, as scipy counts its pieces."""
    pieces, count = ndimage.label(voxels == value, CORNERS)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    kept = [n for n in range(1, count + 1) if sizes[n] >= least]
    if only_largest and kept:
        kept = [n for n in kept if sizes[n] == max(sizes[1:])]
    return np.isin(pieces, kept), [sizes[n] for n in kept]


@needs_cc3d
@given(st.integers(0, 1000), st.integers(1, 30))
def test_pieces_below_the_least_volume_go_and_all_others_stay(seed, least):
    voxels = any_labels(seed)
    out = polished(a_map(voxels), Polish({"Liver": least / 1000})).voxels
    np.testing.assert_array_equal(out == 1, expected_pieces(voxels, 1, least, False)[0])
    np.testing.assert_array_equal(out == 2, voxels == 2)


@needs_cc3d
@given(st.integers(0, 1000))
def test_one_piece_stays_and_none_is_larger(seed):
    voxels = any_labels(seed)
    out = polished(a_map(voxels), Polish(largest_component=("Liver", "Tumour"))).voxels
    for value in (1, 2):
        where, sizes = expected_pieces(voxels, value, 0, True)
        assert np.count_nonzero(out == value) == sizes[0] and not ((out == value) & ~where).any()
        assert ndimage.label(out == value, CORNERS)[1] == 1


@needs_cc3d
@given(st.integers(0, 1000))
def test_holes_are_those_that_scipy_fills_and_other_labels_in_them_stay(seed):
    voxels = any_labels(seed)
    out = polished(a_map(voxels), Polish(fill_holes=("Liver",))).voxels
    filled = ndimage.binary_fill_holes(voxels == 1, FACES)
    np.testing.assert_array_equal(out, np.where(filled & (voxels == 0), 1, voxels))


@needs_cc3d
def test_volumes_are_those_of_the_scans_own_voxels():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1:3, 1:3, 1:3] = 1
    # 8 voxels of 2.2 mm3
    for least, count in ((0.0175, 8), (0.0177, 0)):
        out = polished(a_map(voxels, OBLIQUE), Polish({"Liver": least})).voxels
        assert np.count_nonzero(out) == count


@needs_cc3d
def test_specks_go_before_the_largest_is_sought_and_holes_are_filled_last():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1:6, 1:6, 1:6], voxels[3, 3, 3] = 1, 0
    voxels[2, 2, 2] = 2
    voxels[9, 9, 9] = 1
    polish = Polish({"Liver": 0.01, "Tumour": 0.01}, ("Liver",), ("Liver",))
    out = polished(a_map(voxels), polish).voxels
    # the tumour goes after the liver was filled, so that it leaves a hole
    assert np.count_nonzero(out == 1) == 124 and np.count_nonzero(out == 2) == 0 and out[2, 2, 2] == 0


@needs_cc3d
def test_each_region_is_put_right_by_itself_and_what_is_given_stays_as_it_was():
    voxels = any_labels(3)
    masks = {"Whole": (voxels > 0).astype(np.uint8), "Core": (voxels == 2).astype(np.uint8)}
    given = {name: mask.copy() for name, mask in masks.items()}
    out = polished(RegionMap(masks, Grid(SHAPE, np.eye(4))), Polish(largest_component=("Core",)))
    np.testing.assert_array_equal(out.masks["Whole"], given["Whole"])
    assert ndimage.label(out.masks["Core"], CORNERS)[1] == 1
    np.testing.assert_array_equal(masks["Core"], given["Core"])


@needs_cc3d
def test_an_empty_mask_stays_empty():
    polish = Polish({"Liver": 1.0}, ("Liver",), ("Liver",))
    assert not polished(a_map(np.zeros(SHAPE, np.uint8)), polish).voxels.any()
