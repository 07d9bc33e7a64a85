"""Augmentation: repeatable, true in mm, labels along with the image, and each change within what the recipe allows."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Affine
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from mimzoo.data.augment import build_augmentation
from mimzoo.data.transforms import RandBlurd, RandTurnd, resample, rotation
from mimzoo.recipes import Augmentation

FULL = Augmentation(
    flip_axes=(0, 1, 2),
    rotate_deg=20,
    scale=0.2,
    noise=0.1,
    blur_mm=1.5,
    gamma=0.3,
    intensity_scale=0.1,
    intensity_shift=0.2,
    probability=1.0,
)


def make_item(shape=(20, 24, 18), channels=1, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    labels[4:12, 6:15, 3:10] = 1
    labels[12:17, 6:15, 8:15] = 7
    voxels = rng.normal(0, 0.3, (channels, *shape)) + labels
    return {"volume": torch.tensor(voxels, dtype=torch.float32), "labels": torch.from_numpy(labels), "case": "a"}


def only(**changes):
    return build_augmentation(Augmentation(probability=1.0, **changes), (1.0, 1.0, 1.0))


def same(one, two):
    return torch.equal(one["volume"], two["volume"]) and torch.equal(one["labels"], two["labels"])


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_crop():
    augment, item = build_augmentation(FULL, (1, 1, 2)), make_item()
    first = [augment(item, seed) for seed in range(6)]
    other = build_augmentation(FULL, (1, 1, 2))
    assert all(same(other(item, seed), first[seed]) for seed in (5, 2, 0, 3, 1, 4))
    assert not any(same(first[a], first[b]) for a in range(6) for b in range(a))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_goes_in_comes_out_alike(channels):
    item = make_item(channels=channels)
    before = {key: value.clone() for key, value in item.items() if key != "case"}
    for seed in range(10):
        out = build_augmentation(FULL, (1, 1, 2))(item, seed)
        assert list(out) == list(item) and out["case"] == "a"
        for key, value in before.items():
            assert type(out[key]) is torch.Tensor
            assert (out[key].dtype, out[key].shape) == (value.dtype, value.shape)
            assert torch.equal(item[key], value), "the given item was changed"
        assert set(out["labels"].unique().tolist()) <= {0, 1, 7}
        assert torch.isfinite(out["volume"]).all()


def test_without_labels():
    item = make_item()
    unlabelled = {key: item[key] for key in ("volume", "case")}
    augment = build_augmentation(FULL, (1, 1, 2))
    out = augment(unlabelled, 5)
    assert sorted(out) == ["case", "volume"]
    assert torch.equal(out["volume"], augment(item, 5)["volume"])


@pytest.mark.parametrize("recipe", [Augmentation(), FULL.model_copy(update={"probability": 0.0})])
def test_nothing_switched_on_changes_nothing(recipe):
    item = make_item()
    out = build_augmentation(recipe, (1, 1, 1))(item, 0)
    assert same(out, item)
    assert type(out["volume"]) is torch.Tensor


def test_each_change_happens_with_its_probability():
    augment = build_augmentation(Augmentation(intensity_shift=1.0, flip_axes=(0,), probability=0.3), (1, 1, 1))
    item = make_item((6, 6, 6))
    item["labels"][0] = 3
    outs = [augment(item, seed) for seed in range(400)]
    shifted = np.mean([out["volume"].sum().item() != pytest.approx(item["volume"].sum().item()) for out in outs])
    flipped = np.mean([bool((out["labels"][-1] == 3).all()) for out in outs])
    assert shifted == pytest.approx(0.3, abs=0.08) and flipped == pytest.approx(0.3, abs=0.08)


def test_global_random_state_is_neither_used_nor_moved():
    augment, item = build_augmentation(FULL, (1, 1, 1)), make_item()
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = augment(item, 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    torch.manual_seed(2)
    assert same(augment(item, 3), first)


def test_monai_is_imported_only_when_needed():
    code = "import sys, mimzoo.data.augment, mimzoo.data.crops; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- turning ----------------------------------------------------------------------------------------------------------


@given(st.tuples(*[st.floats(-4, 4)] * 3))
def test_rotations_are_those_of_scipy(angles):
    np.testing.assert_allclose(rotation(angles), Rotation.from_euler("xyz", angles).as_matrix(), atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    angles=st.tuples(*[st.floats(-1, 1)] * 3), factor=st.floats(0.7, 1.4), spacing=st.tuples(*[st.floats(0.5, 5)] * 3)
)
def test_resampling_is_that_of_scipy_in_mm(angles, factor, spacing):
    voxels = np.random.default_rng(0).normal(size=(9, 12, 7)).astype(np.float32)
    matrix = rotation(angles) * factor
    found = resample(torch.from_numpy(voxels)[None], matrix, spacing, nearest=False)[0].numpy()
    in_voxels = np.diag(1 / np.array(spacing)) @ matrix @ np.diag(spacing)
    centre = (np.array(voxels.shape) - 1) / 2
    expected = affine_transform(voxels, in_voxels, centre - in_voxels @ centre, order=1, mode="nearest")
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_resampling_is_that_of_monai_where_voxels_are_cubes():
    item = make_item()
    matrix = rotation((0.2, -0.1, 0.3)) * 1.1
    homogeneous = np.eye(4)
    homogeneous[:3, :3] = matrix
    for key, nearest, mode in (("volume", False, "bilinear"), ("labels", True, "nearest")):
        tensor = item[key] if key == "volume" else item[key][None]
        expected = Affine(affine=homogeneous, mode=mode, padding_mode="border", image_only=True)(tensor.float())
        found = resample(tensor, matrix, (2, 2, 2), nearest).float()
        differing = (found - expected.as_tensor()).abs() > 1e-3
        assert differing.float().mean() < (1e-3 if nearest else 1e-9)  # ties between voxels fall either way


def test_a_ball_stays_a_ball_where_voxels_are_no_cubes():
    spacing = (1.0, 1.0, 3.0)
    axes = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip((41, 41, 15), spacing, strict=True)])
    ball = torch.from_numpy((sum(a**2 for a in axes) < 15**2).transpose(1, 0, 2).astype(np.int64))
    transform = RandTurnd(("volume", "labels"), 1.0, 45, 0.0, spacing)
    for seed in range(5):
        turned = transform.set_random_state(seed)({"volume": ball[None].float(), "labels": ball[None]})["labels"][0]
        assert (turned != ball).float().mean() < 0.02
    sheared = transform.__class__(("volume", "labels"), 1.0, 45, 0.0, (1, 1, 1)).set_random_state(0)
    assert (sheared({"volume": ball[None].float(), "labels": ball[None]})["labels"][0] != ball).float().mean() > 0.05


def test_labels_turn_along_with_the_image():
    augment = only(rotate_deg=30, scale=0.2)
    item = make_item()
    item["labels"] = (item["labels"] == 1).long()
    item["volume"] = item["labels"][None].float()
    for seed in range(10):
        out = augment(item, seed)
        assert ((out["volume"][0] > 0.5).long() != out["labels"]).float().mean() < 0.03
        assert not same(out, item)


def test_scaling_keeps_within_its_bounds_and_is_even_about_1():
    augment = only(scale=0.5)
    item = make_item((40, 40, 40))
    item["labels"] = torch.zeros(40, 40, 40, dtype=torch.int64)
    item["labels"][10:30, 10:30, 10:30] = 1
    sides = np.array([augment(item, seed)["labels"].sum().item() ** (1 / 3) / 20 for seed in range(60)])
    assert sides.min() > 1 / 1.5 - 0.06 and sides.max() < 1.5 + 0.06
    assert np.log(sides).mean() == pytest.approx(0, abs=0.1)
    assert sides.std() > 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips(axis):
    item = make_item()
    out = only(flip_axes=(axis,))(item, 0)
    assert torch.equal(out["volume"], item["volume"].flip(axis + 1))
    assert torch.equal(out["labels"], item["labels"].flip(axis))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sided_labels_stay_on_their_side(seed):
    item = make_item()
    augment = build_augmentation(Augmentation(flip_axes=(0,), sided_labels=((1, 7),)), (1.0, 1.0, 1.0))
    plain = build_augmentation(Augmentation(flip_axes=(0,)), (1.0, 1.0, 1.0))
    out, unsided = augment(item, seed), plain(item, seed)
    assert torch.equal(out["volume"], unsided["volume"])
    flipped = not torch.equal(out["volume"], item["volume"])
    for label, other in ((0, 0), (1, 7), (7, 1)):
        assert torch.equal(out["labels"] == label, unsided["labels"] == (other if flipped else label))
    assert augment({"volume": item["volume"]}, seed)["volume"].equal(out["volume"])


def test_sides_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"sided_labels must name each label once, got \[\[3, 4\], \[4, 5\]\]"):
        Augmentation(flip_axes=(0,), sided_labels=((3, 4), (4, 5)))


# --- intensities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"blur_mm": 1.0}, {"gamma": 0.3}, {"noise": 0.1}, {"intensity_scale": 0.1}, {"intensity_shift": 0.1}]
)
def test_intensities_leave_the_labels(change):
    item = make_item()
    out = only(**change)(item, 0)
    assert torch.equal(out["labels"], item["labels"])
    assert not torch.equal(out["volume"], item["volume"])


def test_blur_leaves_a_constant_up_to_the_faces():
    item = {"volume": torch.full((2, 10, 9, 8), -3.0), "case": "a"}
    assert torch.allclose(only(blur_mm=2.0)(item, 1)["volume"], item["volume"], atol=1e-5)


def test_blur_is_in_mm():
    spike = torch.zeros(1, 41, 41, 41)
    spike[0, 20, 20, 20] = 1
    transform = RandBlurd(("volume",), 1.0, 4.0, (1.0, 2.0, 4.0))
    spread = []
    for seed in range(200):
        out = transform.set_random_state(seed)({"volume": spike})["volume"][0].numpy()
        assert out.sum() == pytest.approx(1, abs=1e-3)
        lines = [out.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
        spread.append([math.sqrt((line * (np.arange(41) - 20) ** 2).sum()) for line in lines])
    most = np.max(spread, axis=0)
    # A voxel is itself 1 / sqrt(12) wide.
    np.testing.assert_allclose(most, [math.hypot(sigma, 12**-0.5) for sigma in (4, 2, 1)], rtol=0.05)


def test_gamma_keeps_range_and_order_of_negative_values():
    item = make_item()
    item["volume"] = item["volume"] * 2 - 3
    flat = item["volume"].flatten()
    order = flat.argsort()
    exponents = []
    for seed in range(60):
        out = only(gamma=0.5)(item, seed)["volume"].flatten()
        assert (out.min().item(), out.max().item()) == pytest.approx((flat.min().item(), flat.max().item()), abs=1e-4)
        assert (out[order].diff() >= -1e-5).all()
        middle = flat.sub(flat.min()).div(flat.max() - flat.min()).sub(0.5).abs().argmin()
        level = (out[middle] - out.min()) / (out.max() - out.min())
        exponents.append(
            math.log(level.item()) / math.log(((flat[middle] - flat.min()) / (flat.max() - flat.min())).item())
        )
    assert 1 / 1.5 - 0.02 < min(exponents) < 0.8 and 1.3 < max(exponents) < 1.52


def test_gamma_of_a_constant_crop():
    item = {"volume": torch.full((1, 6, 6, 6), -1.5), "case": "a"}
    assert torch.allclose(only(gamma=0.5)(item, 0)["volume"], item["volume"])


def test_amounts_of_noise_scale_and_shift():
    item = make_item()
    volume = item["volume"]
    noise = [(only(noise=0.2)(item, seed)["volume"] - volume).std().item() for seed in range(40)]
    scale = [(only(intensity_scale=0.2)(item, seed)["volume"] / volume).median().item() for seed in range(40)]
    shift = [(only(intensity_shift=0.2)(item, seed)["volume"] - volume).median().item() for seed in range(40)]
    assert 0.1 < max(noise) < 0.22 and min(noise) < 0.1
    assert 0.8 <= min(scale) < 0.9 and 1.1 < max(scale) <= 1.2
    assert -0.2 <= min(shift) < -0.1 and 0.1 < max(shift) <= 0.2
