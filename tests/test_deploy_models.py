"""Deployed models of every kind: the right answer, told by name, in the scan's own grid."""

import nibabel as nib
import numpy as np
import pytest
from onnx import helper, numpy_helper
from scipy.special import softmax
from thresholds import (
    LABELS,
    OBLIQUE,
    ROI,
    SHAPE,
    THRESHOLDS,
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

from mimzoo.deploy import Choice, Deployed, Manner, Predictor, RegionSegmenter, Segmenter, open_model
from mimzoo.errors import ExportError, ScanError
from mimzoo.recipes import WindowHU, ZScore
from mimzoo.tasks import Target
from mimzoo.volume import Grid, Volume, prepare, read_scan

# Named so that neither the order of writing nor that of the alphabet is the order of the outputs.
REGIONS = {"Core": ("Hard",), "Zone": ("Soft", "Hard")}
DIAGNOSIS = Target(column="diagnosis", classes=("CN", "MCI", "AD"))
AGE = Target(column="age", unit="years")


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "thresholds.onnx")


def region_model(path, **about):
    """Zone, the first output, where the only channel is above 400, and Core where it is above 700."""
    return save_model(path, metadata(regions=REGIONS, **about), graph=linear_graph([[1], [1]], [-0.4, -0.7]))


def class_model(path):
    """Logits 0, 4 v - 2 and 8 v - 4 of the mean v of a window."""
    known = linear_graph([[0], [4], [8]], [0, -2, -4], of_scan=True)
    return save_model(path, metadata(labels=None, target=DIAGNOSIS), graph=known)


def age_model(path):
    known = linear_graph([[60]], [20], of_scan=True)
    return save_model(path, metadata(labels=None, target=AGE), graph=known)


def a_volume(shape=(20, 18, 15), seed=0):
    return Volume(noise(shape, seed)[None].astype(np.float32), Grid(shape, np.eye(4)))


# --- labels


def test_the_mask_is_the_models_in_the_scans_own_grid(model, tmp_path):
    scan = save_scan(tmp_path / "scan.nii.gz", noise())
    labels = Segmenter(model)(scan)
    np.testing.assert_array_equal(labels.voxels, counted(noise() / 1000))
    assert labels.names == LABELS
    assert labels.voxels.dtype == np.uint8


def test_a_psr_scan_gets_its_mask_in_psr(data_root, tmp_path):
    path = data_root / "fixtures" / "spinalcord" / "images" / "t2w.nii.gz"
    scan = nib.load(path)
    top = int(np.percentile(scan.get_fdata(), 99))
    window = WindowHU(mode="window_hu", window_hu=(0, top))
    about = metadata(input=an_input(intensity=window, channels=("T2",)))
    labels = Segmenter(save_model(tmp_path / "m.onnx", about))(path)
    assert nib.orientations.aff2axcodes(scan.affine) == ("P", "S", "R")
    np.testing.assert_array_equal(labels.voxels, counted(scan.get_fdata() / top))
    labels.save(tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == scan.shape and set(np.unique(mask.dataobj)) == {0, 1, 2}
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-6)


def test_an_oblique_anisotropic_scan_gets_its_mask_where_the_object_is(tmp_path):
    voxels, inside = ball()
    scan = save_scan(tmp_path / "scan.nii.gz", voxels, OBLIQUE)
    about = metadata(labels={1: "Ball"})
    labels = Segmenter(save_model(tmp_path / "m.onnx", about, thresholds=(0.5,)))(scan)
    assert labels.voxels.shape == voxels.shape
    np.testing.assert_allclose(labels.grid.affine, OBLIQUE, atol=1e-4)
    assert dice(labels.voxels == 1, inside) >= 0.97


def test_deployment_prepares_a_scan_as_training_does(tmp_path):
    about = metadata(input=an_input(intensity=ZScore(mode="zscore"), spacing_mm=(1.5, 1.5, 2)))
    segment = Segmenter(save_model(tmp_path / "m.onnx", about))
    scan = Volume(ball()[0][None], Grid(SHAPE, OBLIQUE))
    prepared = prepare(scan, about.input)
    expected = prepared.restore(counted(prepared.voxels[0]))
    np.testing.assert_array_equal(segment(scan).voxels, expected.voxels)


@pytest.mark.parametrize("shape", [(3, 4, 5), (16, 16, 12), (40, 17, 12)])
def test_scans_of_any_size_are_segmented(model, shape):
    np.testing.assert_array_equal(Segmenter(model)(a_volume(shape)).voxels, counted(noise(shape) / 1000))


@pytest.mark.parametrize("graph", [{"batch": 1}, {"out_shape": ["b", "k", "x", "y", "z"]}])
def test_a_fixed_batch_of_one_and_open_output_shapes_give_the_same_mask(tmp_path, graph):
    labels = Segmenter(save_model(tmp_path / "m.onnx", **graph))(a_volume())
    np.testing.assert_array_equal(labels.voxels, counted(noise() / 1000))


def test_a_model_tells_what_it_is(model):
    segment = Segmenter(str(model), Choice(threads=1))
    assert (segment.card, segment.card_sha256) == ("thresholds", "ab" * 32)
    assert segment.labels == LABELS and segment.roi == ROI and segment.overlap == 0.5
    assert segment.input == metadata().input and segment.path == model


@pytest.mark.parametrize("overlap", [1.0, -0.1, float("nan")])
def test_an_overlap_that_makes_no_progress_is_refused_before_any_scan(model, overlap):
    with pytest.raises(ExportError, match="overlap of .* is not allowed; it must be at least 0 and below 1"):
        Segmenter(model, manner=Manner(overlap=overlap))


# --- regions


def test_regions_have_their_own_masks_under_their_own_names(tmp_path):
    regions = RegionSegmenter(region_model(tmp_path / "m.onnx"))(save_scan(tmp_path / "scan.nii.gz", noise()))
    assert set(regions.masks) == {"Core", "Zone"}
    np.testing.assert_array_equal(regions.masks["Zone"], noise() > 400)
    np.testing.assert_array_equal(regions.masks["Core"], noise() > 700)


def test_regions_lie_where_the_object_is_in_an_oblique_scan(tmp_path):
    about = {"input": an_input(spacing_mm=(1.5, 1.5, 2))}
    scan = Volume(ball()[0][None], Grid(SHAPE, OBLIQUE))
    regions = RegionSegmenter(region_model(tmp_path / "m.onnx", **about))(scan)
    np.testing.assert_array_equal(regions.grid.affine, OBLIQUE)
    for name, threshold in (("Zone", 400), ("Core", 700)):
        assert dice(regions.masks[name] == 1, scan.voxels[0] > threshold) > 0.97


# --- what is told of whole scans


def test_the_probabilities_of_the_classes_are_those_of_the_mean_over_windows(tmp_path):
    predict = Predictor(class_model(tmp_path / "m.onnx"))
    scan = a_volume((16, 16, 24))
    # windows of 16 x 16 x 12 that overlap by a half
    voxels = np.clip(scan.voxels[0] / 1000, 0, 1)
    logits = [[0, 4 * v - 2, 8 * v - 4] for v in (voxels[..., z : z + 12].mean() for z in (0, 6, 12))]
    told = predict(scan)
    assert list(told) == ["CN", "MCI", "AD"]
    np.testing.assert_allclose(list(told.values()), softmax(logits, axis=1).mean(0), rtol=1e-4)
    assert predict.labels == {}


@pytest.mark.parametrize(("hounsfield", "likeliest"), [(0, "CN"), (1000, "AD")])
def test_the_likeliest_class_is_told_by_its_name(tmp_path, hounsfield, likeliest):
    voxels = np.full((16, 16, 12), hounsfield, np.int16)
    voxels[0, 0, 0] += 1
    told = Predictor(class_model(tmp_path / "m.onnx"))(save_scan(tmp_path / "scan.nii.gz", voxels))
    assert max(told, key=told.get) == likeliest and sum(told.values()) == pytest.approx(1)


def test_a_value_is_told_under_the_name_of_its_column(tmp_path):
    told = Predictor(age_model(tmp_path / "m.onnx"))(a_volume((16, 16, 12)))
    assert told == {"age": pytest.approx(20 + 60 * np.clip(noise((16, 16, 12)) / 1000, 0, 1).mean(), rel=1e-4)}


# --- the right opener

OPENERS = {
    "labels": (save_model, Segmenter),
    "regions": (region_model, RegionSegmenter),
    "classes": (class_model, Predictor),
    "value": (age_model, Predictor),
}


@pytest.mark.parametrize(
    ("kind", "wrong"), [(k, o) for k in OPENERS for o in (*dict.fromkeys(v[1] for v in OPENERS.values()), Deployed)]
)
def test_a_model_of_another_kind_is_refused_with_the_name_of_the_right_opener(tmp_path, kind, wrong):
    make, right = OPENERS[kind]
    path = make(tmp_path / "m.onnx")
    if wrong is right:
        assert wrong(path).metadata.task.kind == kind
        return
    with pytest.raises(ExportError, match=rf"answers with {kind}; open it with mimzoo\.deploy\.{right.__name__}$"):
        wrong(path)


@pytest.mark.parametrize("kind", OPENERS)
def test_any_model_is_opened_as_what_it_is(tmp_path, kind):
    make, right = OPENERS[kind]
    make(tmp_path / "model.onnx")
    assert type(open_model(tmp_path, Choice(threads=1))) is type(open_model(str(tmp_path / "model.onnx"))) is right


# --- scans on which a model fails


def test_a_scan_that_cannot_be_read_is_refused(model, tmp_path):
    with pytest.raises(ScanError, match="no such file"):
        Segmenter(model)(tmp_path / "none.nii.gz")


NAN = float("nan")
FAILING = {
    "labels": lambda path: save_model(path, thresholds=(0.4, NAN)),
    "regions": lambda path: save_model(path, metadata(regions=REGIONS), graph=linear_graph([[1], [NAN]], [0, 0])),
    "classes": lambda path: save_model(
        path, metadata(labels=None, target=DIAGNOSIS), graph=linear_graph([[1], [2], [3]], [0, NAN, 0], of_scan=True)
    ),
    "value": lambda path: save_model(
        path, metadata(labels=None, target=AGE), graph=linear_graph([[NAN]], [0], of_scan=True)
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_model_whose_output_is_no_number_is_refused_on_that_scan(tmp_path, kind):
    scan = save_scan(tmp_path / "scan.nii.gz", noise())
    with pytest.raises(ExportError, match=r"m\.onnx: the model fails on .*scan\.nii\.gz: .*NaN"):
        open_model(FAILING[kind](tmp_path / "m.onnx"))(scan)


def losing_an_output(weights, of_scan=False):
    """A graph that drops its last output, which only running it can tell."""
    shape = ["b", "k"] if of_scan else ["b", "k", "x", "y", "z"]
    model = linear_graph(weights, [0] * len(weights), of_scan, out_shape=shape)
    model.graph.node[-1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Compress", ["whole", "kept"], ["logits"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(len(weights)) < len(weights) - 1, "kept"))
    return model


OPEN = {
    "labels": (metadata(), losing_an_output([[0], [1], [2]])),
    "regions": (metadata(regions=REGIONS), losing_an_output([[1], [2]])),
    "classes": (metadata(labels=None, target=DIAGNOSIS), losing_an_output([[0], [1], [2]], of_scan=True)),
}


@pytest.mark.parametrize("kind", OPEN)
def test_an_open_shape_that_turns_out_wrong_is_refused_on_that_scan(tmp_path, kind):
    about, graph = OPEN[kind]
    with pytest.raises(ExportError, match=r"the model fails on the scan: .* could not give outputs of shape"):
        open_model(save_model(tmp_path / "m.onnx", about, graph=graph))(a_volume())


def test_real_scans_are_segmented_in_their_own_grids(data_root, tmp_path):
    about = metadata(input=an_input(intensity=ZScore(mode="zscore"), spacing_mm=(2, 2, 2)))
    segment = Segmenter(save_model(tmp_path / "m.onnx", about))
    for name in ("abdomen-example/images/mr_abdomen.nii.gz", "spinalcord/images/t2w.nii.gz"):
        scan = data_root / "fixtures" / name
        segment(scan).save(tmp_path / "mask.nii.gz")
        image = nib.load(tmp_path / "mask.nii.gz")
        assert image.shape == nib.load(scan).shape
        np.testing.assert_allclose(image.affine, nib.load(scan).affine, atol=1e-4)
        voxels = read_scan(scan).voxels[0]
        inside = (voxels - voxels.mean()) / voxels.std() > THRESHOLDS[0]
        assert dice(inside, image.get_fdata() > 0) > 0.75
