"""Deployment: the right mask in the scan's own grid, refusals in one sentence, whole files only, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mimzoo import answers
from mimzoo.deploy import Metadata, Segmenter, segment_files
from mimzoo.deploy.metadata import digest
from mimzoo.errors import DataError, ExportError, MimzooError, ScanError
from mimzoo.recipes import Input, WindowHU, ZScore
from mimzoo.volume import Grid, Volume, prepare, read_labels, read_scan

ROI = (16, 16, 12)
LABELS = {1: "Soft", 2: "Hard"}
THRESHOLDS = (0.4, 0.7)
WINDOW = WindowHU(mode="window_hu", window_hu=(0, 1000))


def metadata(**changes):
    values = {
        "card": "thresholds",
        "card_sha256": "ab" * 32,
        "input": Input(channels=("CT",), spacing_mm=(1, 1, 1), intensity=WINDOW, crop=ROI),
        "labels": LABELS,
        "roi": ROI,
        "overlap": 0.5,
    }
    return Metadata(**{**values, **changes})


def an_input(**changes):
    return metadata().input.model_copy(update=changes)


def threshold_graph(
    channels=1,
    thresholds=THRESHOLDS,
    roi=ROI,
    batch="batch",
    kind=TensorProto.FLOAT,
    names=("volume", "logits"),
    out_shape=None,
    extra_output=False,
):
    """A network whose labels are known: the mean channel v gets the label of how many thresholds lie below it.

    The logit of class k is k v - (t1 + ... + tk): it is the largest where t_k < v < t_k+1.
    """
    classes = 1 + len(thresholds)
    number = helper.tensor_dtype_to_np_dtype(kind)
    slope = np.arange(classes).reshape(1, classes, 1, 1, 1).astype(number)
    offset = -np.concatenate([[0], np.cumsum(thresholds)]).reshape(slope.shape).astype(number)
    nodes = [
        helper.make_node("ReduceMean", [names[0], "axis"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [names[1]]),
    ]
    constants = {"axis": np.array([1]), "slope": slope, "offset": offset}
    outputs = [helper.make_tensor_value_info(names[1], kind, out_shape or [batch, classes, *roi])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("scaled", kind, [batch, classes, *roi]))
    graph = helper.make_graph(
        nodes,
        "thresholds",
        [helper.make_tensor_value_info(names[0], kind, [batch, channels, *roi])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_model(path, about=None, props=None, **graph):
    model = threshold_graph(**graph)
    helper.set_model_props(model, (about or metadata()).to_props() if props is None else props)
    onnx.save_model(model, path)
    return path


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "thresholds.onnx")


def save_scan(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def noise(shape=(20, 18, 15), seed=0):
    return np.random.default_rng(seed).integers(-200, 1200, shape).astype(np.int16)


def counted(voxels, thresholds=THRESHOLDS):
    return sum((voxels > t).astype(np.uint8) for t in thresholds)


# --- the mask


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


def oblique_ball(radius_mm=18.0):
    """A ball in the world on an anisotropic, oblique, flipped grid: voxels (X, Y, Z), affine, inside."""
    shape = (44, 60, 24)
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)[:, [1, 0, 2]] * [-1.1, 0.8, 2.5]
    affine[:3, 3] = [30, -40, 12]
    centre = affine @ [*(np.array(shape) - 1) / 2, 1]
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    distance = np.linalg.norm((index @ affine.T - centre)[..., :3], axis=-1)
    # a soft edge one voxel wide, so that interpolation is not a question of luck
    voxels = 1000 / (1 + np.exp((distance - radius_mm) / 1.5))
    return voxels.astype(np.float32), affine, distance < radius_mm


def test_an_oblique_anisotropic_scan_gets_its_mask_where_the_object_is(tmp_path):
    voxels, affine, inside = oblique_ball()
    scan = save_scan(tmp_path / "scan.nii.gz", voxels, affine)
    about = metadata(labels={1: "Ball"})
    labels = Segmenter(save_model(tmp_path / "m.onnx", about, thresholds=(0.5,)))(scan)
    assert labels.voxels.shape == voxels.shape
    np.testing.assert_allclose(labels.grid.affine, affine, atol=1e-4)
    overlap = 2 * np.count_nonzero(inside & (labels.voxels == 1))
    assert overlap / (inside.sum() + np.count_nonzero(labels.voxels)) >= 0.97


def test_deployment_prepares_a_scan_as_training_does(tmp_path):
    voxels, affine, _ = oblique_ball()
    about = metadata(input=an_input(intensity=ZScore(mode="zscore"), spacing_mm=(1.5, 1.5, 2)))
    segment = Segmenter(save_model(tmp_path / "m.onnx", about))
    scan = Volume(voxels[None], Grid(voxels.shape, affine))
    prepared = prepare(scan, about.input)
    expected = prepared.restore(counted(prepared.voxels[0]))
    np.testing.assert_array_equal(segment(scan).voxels, expected.voxels)


@pytest.mark.parametrize("shape", [(3, 4, 5), (16, 16, 12), (40, 17, 12)])
def test_scans_of_any_size_are_segmented(model, shape):
    scan = Volume(noise(shape)[None].astype(np.float32), Grid(shape, np.eye(4)))
    np.testing.assert_array_equal(Segmenter(model)(scan).voxels, counted(noise(shape) / 1000))


def test_several_channels_are_read_from_a_4d_file(tmp_path):
    about = metadata(input=an_input(channels=("T1", "T2")))
    segment = Segmenter(save_model(tmp_path / "m.onnx", about, channels=2))
    voxels = np.stack([noise(seed=1), noise(seed=2)], -1)
    labels = segment(save_scan(tmp_path / "scan.nii.gz", voxels))
    np.testing.assert_array_equal(labels.voxels, counted(np.clip(voxels / 1000, 0, 1).mean(-1)))
    with pytest.raises(ScanError, match="2 channel"):
        segment(save_scan(tmp_path / "one.nii.gz", noise()))


def test_a_model_tells_what_it_is(model):
    segment = Segmenter(str(model), threads=1)
    assert (segment.card, segment.card_sha256) == ("thresholds", "ab" * 32)
    assert segment.labels == LABELS and segment.roi == ROI and segment.overlap == 0.5
    assert segment.input == metadata().input


def test_a_folder_that_holds_a_model_will_do(model):
    model.rename(model.parent / "model.onnx")
    assert Segmenter(model.parent).card == "thresholds"


@pytest.mark.parametrize("graph", [{"batch": 1}, {"out_shape": ["b", "k", "x", "y", "z"]}])
def test_a_fixed_batch_of_one_and_open_output_shapes_are_fine(tmp_path, graph):
    scan = Volume(noise()[None].astype(np.float32), Grid(noise().shape, np.eye(4)))
    labels = Segmenter(save_model(tmp_path / "m.onnx", **graph))(scan)
    np.testing.assert_array_equal(labels.voxels, counted(noise() / 1000))


# --- refusals


def with_content(path, content):
    path.write_bytes(content)
    return path


def tampered(**changes):
    content = json.loads(metadata().to_props()["mimzoo"])
    return {"mimzoo": json.dumps({**content, **changes})}


def respaced():
    content = json.loads(metadata().to_props()["mimzoo"])
    content["input"]["spacing_mm"] = [2, 2, 2]
    return {"mimzoo": json.dumps(content)}


def resigned(**changes):
    """Metadata changed and signed anew: only the schema or the graph can tell."""
    content = {**metadata().model_dump(mode="json"), **changes}
    return {"mimzoo": json.dumps({**content, "sha256": digest(content)})}


REFUSED = {
    "missing": (lambda p: p, "no such file"),
    "empty folder": (lambda p: p.parent, r"model\.onnx: no such file"),
    "empty": (lambda p: with_content(p, b""), "not an ONNX file"),
    "no ONNX": (lambda p: with_content(p, b"hello" * 99), "not an ONNX file"),
    "truncated": (lambda p: with_content(p, save_model(p).read_bytes()[:300]), "not an ONNX file"),
    "no metadata": (lambda p: save_model(p, props={"other": "x"}), "not made by mimzoo"),
    "no JSON": (lambda p: save_model(p, props={"mimzoo": "{"}), "metadata is damaged"),
    "a list": (lambda p: save_model(p, props={"mimzoo": "[1]"}), "metadata is damaged"),
    "a number": (lambda p: save_model(p, props={"mimzoo": "1"}), "metadata is damaged"),
    "other spacing": (lambda p: save_model(p, props=respaced()), "changed after the export"),
    "other labels": (lambda p: save_model(p, props=tampered(labels={"1": "a", "2": "b"})), "changed after"),
    "no checksum": (lambda p: save_model(p, props=tampered(sha256=None)), "changed after"),
    "unknown key": (lambda p: save_model(p, props=tampered(extra=1)), "extra"),
    "missing key": (lambda p: save_model(p, props={"mimzoo": '{"format": 1}'}), "field required"),
    "another format": (lambda p: save_model(p, props=resigned(format=2)), "format"),
    "gap in labels": (lambda p: save_model(p, props=resigned(labels={"1": "a", "3": "b"})), "count up from 1"),
    "no labels": (lambda p: save_model(p, props=resigned(labels={})), "labels"),
    "overlap": (lambda p: save_model(p, props=resigned(overlap=1)), "overlap"),
    "classes": (lambda p: save_model(p, thresholds=(0.5,)), "logits is .* but its metadata says"),
    "channels": (lambda p: save_model(p, channels=2), "volume is .* but its metadata says"),
    "roi": (lambda p: save_model(p, roi=(8, 8, 8)), "volume is .* but its metadata says"),
    "output": (lambda p: save_model(p, out_shape=["batch", 3, 16, 16]), "logits is"),
    "batch of two": (lambda p: save_model(p, batch=2), "volume is .* but its metadata says"),
    "input name": (lambda p: save_model(p, names=("image", "logits")), "where only 'volume'"),
    "output name": (lambda p: save_model(p, names=("volume", "y")), "where only 'logits'"),
    "two outputs": (lambda p: save_model(p, extra_output=True), "where only 'logits'"),
    "float64": (lambda p: save_model(p, kind=TensorProto.DOUBLE), r"tensor\(double\)"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_must_not_be_used_is_refused_in_one_sentence(tmp_path, make, reason):
    path = make(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=reason) as caught:
        Segmenter(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_the_error_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MimzooError, match=r"pip install 'mimzoo\[deploy\]'"):
        Segmenter(model)


def test_a_number_of_threads_that_cannot_be_is_refused(model):
    with pytest.raises(MimzooError, match="threads must be at least 1, got 0"):
        Segmenter(model, threads=0)


def test_a_scan_that_cannot_be_read_is_refused(model, tmp_path):
    with pytest.raises(ScanError, match="no such file"):
        Segmenter(model)(tmp_path / "none.nii.gz")


def test_a_model_whose_output_is_no_number_is_refused_on_that_scan(tmp_path):
    path = save_model(tmp_path / "m.onnx", thresholds=(0.4, float("nan")))
    scan = save_scan(tmp_path / "scan.nii.gz", noise())
    with pytest.raises(ExportError, match=r"m\.onnx: the model cannot segment .*scan\.nii\.gz: .*NaN"):
        Segmenter(path)(scan)


def test_a_graph_that_fails_while_running_is_refused_on_that_scan(tmp_path):
    model = threshold_graph(out_shape=["b", "k", "x", "y", "z"])
    # The last node looks for a class that is not there, which only running it can tell.
    model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["scaled", "far"], ["logits"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.array([99, 99, 99]), "far"))
    helper.set_model_props(model, metadata().to_props())
    onnx.save_model(model, tmp_path / "m.onnx")
    segment = Segmenter(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"cannot segment .*scan\.nii\.gz: ONNX Runtime failed"):
        segment(save_scan(tmp_path / "scan.nii.gz", noise()))


def test_metadata_survives_the_round_trip_and_is_one_key():
    props = metadata().to_props()
    assert list(props) == ["mimzoo"]
    assert Metadata.from_props(props) == metadata()
    assert json.loads(props["mimzoo"])["format"] == 1


# --- many files


def test_masks_are_written_one_by_one_and_a_bad_scan_stops_nothing(model, tmp_path):
    good = save_scan(tmp_path / "in" / "a.nii.gz", noise(seed=1)), save_scan(tmp_path / "in" / "c.nii", noise(seed=3))
    bad = with_content(tmp_path / "in" / "b.nii.gz", b"no scan")
    seen = []
    out = tmp_path / "deep" / "out"
    done, failures = segment_files(model, [good[0], bad, str(good[1])], out, lambda *step: seen.append(step))
    assert done == [out / "a.nii.gz", out / "c.nii.gz"]
    assert len(failures) == 1 and str(bad) in failures[0]
    assert seen == [(1, 3, "a.nii.gz"), (2, 3, "b.nii.gz"), (3, 3, "c.nii")]
    assert sorted(p.name for p in out.iterdir()) == ["a.nii.gz", "c.nii.gz"]
    mask = read_labels(done[1])
    np.testing.assert_array_equal(mask.voxels, counted(noise(seed=3) / 1000))
    assert mask.names == LABELS


def test_the_same_scan_gives_the_same_file(model, tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz", noise())
    (first,), _ = segment_files(model, [scan], tmp_path / "one")
    (second,), _ = segment_files(model, [scan], tmp_path / "two", threads=1)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("second", ["y/a.nii.gz", "x/a.nii", "x/a.nii.gz"])
def test_two_scans_with_one_mask_are_refused_before_starting(model, tmp_path, second):
    scans = [save_scan(tmp_path / "x" / "a.nii.gz", noise()), save_scan(tmp_path / second, noise())]
    with pytest.raises(DataError, match=r"would both be written to .*a\.nii\.gz"):
        segment_files(model, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_that_would_overwrite_a_scan_is_refused_before_starting(model, tmp_path):
    scans = [save_scan(tmp_path / "in" / name, noise()) for name in ("b.nii.gz", "a.nii")]
    before = scans[0].read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "link"):
        with pytest.raises(DataError, match="would overwrite a scan"):
            segment_files(model, scans, folder)
    assert scans[0].read_bytes() == before


def test_a_folder_that_cannot_be_made_is_refused(model, tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz", noise())
    with pytest.raises(DataError, match="cannot be written there"):
        segment_files(model, [scan], with_content(tmp_path / "file", b"") / "out")


def test_a_full_disk_leaves_no_half_written_mask(model, tmp_path, monkeypatch):
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "b.nii")]
    written = nib.Nifti1Image.to_stream

    def full_after_the_first(image, stream):
        if (tmp_path / "out" / "a.nii.gz").exists():
            stream.write(b"half")
            raise OSError(28, "No space left on device")
        written(image, stream)

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full_after_the_first)
    done, failures = segment_files(model, scans, tmp_path / "out")
    assert [p.name for p in done] == ["a.nii.gz"] == [p.name for p in (tmp_path / "out").iterdir()]
    assert "No space left" in failures[0]


def test_memory_that_runs_out_fails_one_scan(model, tmp_path, monkeypatch):
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "b.nii")]
    real = answers.prepare

    def scarce(volume, block):
        if volume.name.endswith("a.nii"):
            raise MemoryError
        return real(volume, block)

    monkeypatch.setattr(answers, "prepare", scarce)
    done, failures = segment_files(model, scans, tmp_path / "out")
    assert [p.name for p in done] == ["b.nii.gz"]
    assert "out of memory" in failures[0] and "a.nii" in failures[0]


def test_an_interruption_leaves_nothing_behind(model, tmp_path, monkeypatch):
    def interrupted(image, stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_files(model, [save_scan(tmp_path / "a.nii", noise())], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- no torch


def loaded(code):
    """Which heavy packages are in memory after `code` ran in a fresh interpreter."""
    show = "\nimport sys; print('HEAVY', *{'torch', 'monai', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + show], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return set(done.stdout.split("HEAVY")[1].split())


def test_importing_deploy_loads_neither_torch_nor_onnx_runtime():
    assert loaded("import mimzoo.deploy") == set()


def test_segmenting_needs_no_torch(model, tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz", noise())
    out = tmp_path / "out"
    code = f"from mimzoo.deploy import segment_files; segment_files({str(model)!r}, [{str(scan)!r}], {str(out)!r})"
    assert loaded(code) == {"onnxruntime"}
    assert (out / "a.nii.gz").is_file()


def test_the_check_for_torch_can_fail():
    assert "torch" in loaded("import mimzoo.deploy, torch")


def test_real_scans_are_segmented_in_their_own_grids(data_root, tmp_path):
    about = metadata(input=an_input(intensity=ZScore(mode="zscore"), spacing_mm=(2, 2, 2)))
    model = save_model(tmp_path / "m.onnx", about)
    scans = [
        data_root / "fixtures" / name
        for name in ("abdomen-example/images/mr_abdomen.nii.gz", "spinalcord/images/t2w.nii.gz")
    ]
    done, failures = segment_files(model, scans, tmp_path / "out")
    assert not failures
    for mask, scan in zip(done, scans, strict=True):
        image = nib.load(mask)
        assert image.shape == nib.load(scan).shape
        np.testing.assert_allclose(image.affine, nib.load(scan).affine, atol=1e-4)
        voxels = read_scan(scan).voxels[0]
        inside = (voxels - voxels.mean()) / voxels.std() > THRESHOLDS[0]
        overlap = 2 * np.count_nonzero(inside & (image.get_fdata() > 0))
        assert overlap / (inside.sum() + np.count_nonzero(image.get_fdata())) > 0.75
