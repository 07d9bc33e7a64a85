"""Graphs in ONNX files: opened where they are what their metadata says, refused in one sentence where not."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from thresholds import LABELS, ROI, linear_graph, metadata, save_model, threshold_graph, with_content

from mimzoo.deploy import Choice
from mimzoo.deploy.graph import Graph
from mimzoo.deploy.metadata import digest
from mimzoo.errors import ExportError, ShapeError
from mimzoo.tasks import Target

REGIONS = metadata(regions={"All": ("Soft", "Hard"), "Core": ("Hard",)})
CLASSES = metadata(labels=None, target=Target(column="diagnosis", classes=("CN", "MCI", "AD")))


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "thresholds.onnx")


def test_a_graph_gives_the_logits_of_its_windows(tmp_path):
    graph = Graph(save_model(tmp_path / "m.onnx", REGIONS, graph=linear_graph([[2], [3]], [-1, 4])), Choice(threads=1))
    windows = np.random.default_rng(0).random((3, 1, *ROI), np.float32)
    np.testing.assert_allclose(graph.predict(windows), np.concatenate([2 * windows - 1, 3 * windows + 4], 1), atol=1e-5)
    assert graph.metadata == REGIONS


def test_a_graph_of_whole_scans_gives_a_row_for_each_window(tmp_path):
    known = linear_graph([[1], [2], [4]], [0, 0, -1], of_scan=True)
    graph = Graph(save_model(tmp_path / "m.onnx", CLASSES, graph=known))
    windows = np.stack([np.full((1, *ROI), value, np.float32) for value in (0, 1, 2)])
    np.testing.assert_allclose(graph.predict(windows), [[0, 0, -1], [1, 2, 3], [2, 4, 7]], atol=1e-4)


@pytest.mark.parametrize(("own", "said"), [("float32", ", float32"), ("float16", ", a graph in float16")])
def test_a_graph_tells_in_which_precision_it_is_computed(tmp_path, own, said):
    graph = Graph(save_model(tmp_path / "m.onnx", metadata(precision=own)), Choice("cpu", threads=1))
    assert graph.about.startswith("ONNX Runtime") and graph.about.endswith(said)


def test_a_folder_that_holds_a_model_will_do(model):
    model.rename(model.parent / "model.onnx")
    assert Graph(model.parent).path == model.parent / "model.onnx"


FINE = {
    "a batch of one": (None, lambda: threshold_graph(batch=1)),
    "open shape": (None, lambda: threshold_graph(out_shape=["b", "k", "x", "y", "z"])),
    "open row": (CLASSES, lambda: linear_graph(np.ones((3, 1)), [0] * 3, of_scan=True, out_shape=["b", "k"])),
}


@pytest.mark.parametrize(("about", "graph"), FINE.values(), ids=FINE)
def test_a_fixed_batch_of_one_and_open_output_shapes_are_fine(tmp_path, about, graph):
    outputs = Graph(save_model(tmp_path / "m.onnx", about, graph=graph())).predict(np.ones((1, 1, *ROI), np.float32))
    assert outputs.shape[:2] == (1, 3)


def test_an_engine_is_warmed_with_a_whole_batch(tmp_path):
    graph = Graph(save_model(tmp_path / "m.onnx", graph=threshold_graph(batch=1)), Choice("cpu", threads=1))
    graph.warm()
    with pytest.raises(ShapeError, match=r"for windows of shape \(2, 1, 16, 16, 12\)"):
        graph.warm(2)


# --- refusals


def changed(**changes):
    content = json.loads(metadata().to_props()["mimzoo"])
    return {"mimzoo": json.dumps({**content, **changes})}


def of_scan(outputs, **shape):
    return linear_graph(np.ones((outputs, 1)), [0] * outputs, of_scan=True, **shape)


REFUSED = {
    "missing": (lambda p: p, "no such file"),
    "empty folder": (lambda p: p.parent, r"model\.onnx: no such file"),
    "empty": (lambda p: with_content(p, b""), "not an ONNX file"),
    "no ONNX": (lambda p: with_content(p, b"hello" * 99), "not an ONNX file"),
    "truncated": (lambda p: with_content(p, save_model(p).read_bytes()[:300]), "not an ONNX file"),
    "no metadata": (lambda p: save_model(p, props={"other": "x"}), "not made by mimzoo"),
    "changed metadata": (lambda p: save_model(p, props=changed(labels={"1": "a", "2": "b"})), "changed after"),
    "damaged metadata": (lambda p: save_model(p, props={"mimzoo": "{"}), "metadata is damaged"),
    "classes": (lambda p: save_model(p, thresholds=(0.5,)), "logits is .* but its metadata says"),
    "channels": (lambda p: save_model(p, channels=2), "volume is .* but its metadata says"),
    "roi": (lambda p: save_model(p, roi=(8, 8, 8)), "volume is .* but its metadata says"),
    "output": (lambda p: save_model(p, out_shape=["batch", 3, 16, 16]), "logits is"),
    "batch of two": (lambda p: save_model(p, batch=2), "volume is .* but its metadata says"),
    "input name": (lambda p: save_model(p, names=("image", "logits")), "where only 'volume'"),
    "output name": (lambda p: save_model(p, names=("volume", "y")), "where only 'logits'"),
    "two outputs": (lambda p: save_model(p, extra_output=True), "where only 'logits'"),
    "float64": (lambda p: save_model(p, kind=TensorProto.DOUBLE), r"volume is float64 .* says float32"),
    "labels for regions": (lambda p: save_model(p, REGIONS), r"logits is .* 3, .* says \w+ \['batch', 2, 16"),
    "masks of a class": (lambda p: save_model(p, CLASSES), r"logits is .* says \w+ \['batch', 3\]"),
    "two of three classes": (
        lambda p: save_model(p, CLASSES, graph=of_scan(2)),
        r"logits is .* says \w+ \['batch', 3\]",
    ),
    "a row for masks": (lambda p: save_model(p, graph=of_scan(3)), r"logits is .* says \w+ \['batch', 3, 16"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_must_not_be_used_is_refused_in_one_sentence(tmp_path, make, reason):
    path = make(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=reason) as caught:
        Graph(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def failing_graph():
    """A graph whose last node looks for a class that is not there, which only running it can tell."""
    model = threshold_graph(out_shape=["b", "k", "x", "y", "z"])
    model.graph.node[-1].CopyFrom(helper.make_node("Gather", ["scaled", "far"], ["logits"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.array([99, 99, 99]), "far"))
    return model


def test_a_graph_that_fails_while_running_says_so_in_one_line(tmp_path):
    graph = Graph(save_model(tmp_path / "m.onnx", graph=failing_graph()), Choice("cpu"))
    with pytest.raises(ShapeError, match=r"ONNX Runtime .* could not give outputs of shape .*\)$") as caught:
        graph.predict(np.ones((1, 1, *ROI), np.float32))
    assert "\n" not in str(caught.value)


def test_the_known_graphs_are_valid():
    for graph in (threshold_graph(), of_scan(3), linear_graph(np.ones((2, 4)), [0, 0])):
        onnx.checker.check_model(graph, full_check=True)


def test_a_file_as_exported_before_regions_and_targets_opens(tmp_path):
    content = metadata().model_dump(mode="json", exclude={"regions", "target"})
    props = {"mimzoo": json.dumps({**content, "sha256": digest(content)})}
    graph = Graph(save_model(tmp_path / "m.onnx", props=props))
    assert graph.metadata.task.labels == LABELS
