"""Export: one file with all that deployment needs, equal to the model or refused."""

import copy
import hashlib
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import tiny

import mimzoo.export
from mimzoo.blocks import LEAST_DICE
from mimzoo.cards import override, read_card
from mimzoo.data.datasets import read_dataset
from mimzoo.deploy import Segmenter
from mimzoo.errors import CardError, ExportError, ShapeError, UnknownNameError
from mimzoo.export import Form, export, make_form
from mimzoo.finetune import finetune
from mimzoo.inference import answer_with
from mimzoo.models import load
from mimzoo.pretrain import pretrain
from mimzoo.volume import read_scan


@pytest.fixture(scope="module")
def trained(phantoms, tmp_path_factory):
    """The folder of a segmenter that has learned a little."""
    learning = ["finetuning.steps=40", "finetuning.validate_every=20", "finetuning.optimiser.lr=0.01"]
    folder = tmp_path_factory.mktemp("runs") / "seg"
    finetune(override(tiny("finetuning", "vit-mae-phantom-seg"), learning), phantoms, folder)
    return folder


@pytest.fixture(scope="module")
def graphs():
    """Graphs that torch made, by their precision and window: each is made once, for all tests have the same weights."""
    return {}


@pytest.fixture(autouse=True)
def made_once(graphs, monkeypatch):
    make = mimzoo.export.graph_of

    def graph_of(module, volume):
        key = (type(module), volume.shape)
        if key not in graphs:
            graphs[key] = make(module, volume)
        return copy.deepcopy(graphs[key])

    monkeypatch.setattr(mimzoo.export, "graph_of", graph_of)


@pytest.fixture
def segmenter(trained, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(trained, tmp_path / "seg")


def test_the_file_gives_the_masks_of_the_model(segmenter, phantoms):
    scan = read_dataset(phantoms).validation[0].image
    path, parities = export(segmenter, scan=scan)
    assert [found.volume for found in parities] == ["CT-like phantom", scan.name]
    assert all(found.holds() for found in parities)
    card = read_card(segmenter)
    assert card.block.onnx.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card.block.onnx.precision, card.block.onnx.parity) == ("float32", tuple(parities))
    deployed, trained = Segmenter(path), answer_with(load(segmenter), card)
    assert (deployed.card, deployed.labels, deployed.roi) == (card.name, card.block.labels, card.block.input.crop)
    ours, theirs = deployed(scan), trained(read_scan(scan))
    assert (ours.voxels != theirs.voxels).mean() < 1e-3
    assert np.array_equal(ours.grid.affine, theirs.grid.affine)


@pytest.mark.parametrize(("name", "beside"), [("model.onnx", "segmenter.json"), ("liver.onnx", "liver.json")])
def test_what_the_file_says_of_itself_is_told_beside_it_and_never_read(segmenter, tmp_path, name, beside):
    path, _ = export(segmenter, out=tmp_path / "out" / name)
    (prop,) = onnx.load(path).metadata_props
    told = path.with_name(beside)
    assert json.loads(told.read_text()) == json.loads(prop.value)
    assert {entry.name for entry in path.parent.iterdir()} == {name, beside}
    told.write_text("{}")
    assert Segmenter(path).labels == read_card(segmenter).block.labels


@pytest.mark.parametrize("name", ["told.json", "folder.onnx"])
def test_what_cannot_be_the_name_of_an_onnx_file_is_refused(segmenter, tmp_path, name):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ExportError, match=f"{name} is no name of an ONNX file; write one that ends in .onnx"):
        export(segmenter, out=tmp_path / name)
    assert not (tmp_path / "told.json").exists() and not list((tmp_path / "folder.onnx").iterdir())


def test_a_model_of_the_zoo_is_not_put_into_a_run_of_its_name(segmenter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(segmenter, tmp_path / "runs" / "resenc-headneck-seg")
    with pytest.raises(ExportError, match=r"a run with a model of its own; export \./runs/resenc-headneck-seg"):
        export("resenc-headneck-seg")
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_graph_takes_any_batch_and_one_roi(segmenter):
    path, _ = export(segmenter)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param and [dim.dim_value for dim in dims[1:]] == [1, 16, 16, 16]
    session = onnxruntime.InferenceSession(path)
    model = load(segmenter)
    for batch in (1, 3):
        volume = torch.randn(batch, 1, 16, 16, 16)
        with torch.inference_mode():
            expected = model(volume).numpy()
        assert np.abs(session.run(None, {"volume": volume.numpy()})[0] - expected).max() < 1e-3


def test_another_roi_is_that_of_the_graph_and_told_by_its_metadata(segmenter, phantoms):
    data = read_dataset(phantoms)
    path, parities = export(segmenter, form=Form(roi=(24, 16, 16)), data=phantoms)
    assert parities[-1].volume == data.validation[0].image.name
    deployed = Segmenter(path)
    assert deployed.roi == deployed.input.crop == (24, 16, 16)
    card = read_card(segmenter)
    assert card.block.onnx.roi == (24, 16, 16) and card.block.input.crop == (16, 16, 16)
    assert deployed.card_sha256 == card.sha256()
    assert deployed(data.validation[0].image).grid.shape == read_scan(data.validation[0].image).grid.shape


def test_a_roi_that_the_encoder_does_not_take_is_refused(segmenter):
    with pytest.raises(ShapeError, match="20"):
        export(segmenter, form=Form(roi=(20, 16, 16)))
    assert not list(segmenter.glob("*.onnx"))


def test_float16_computes_in_float16_between_float32(segmenter):
    full, half = (export(segmenter, form=Form(precision))[0].read_bytes() for precision in ("float32", "float16"))
    graph, card = onnx.load_from_string(half), read_card(segmenter)
    assert card.block.onnx.precision == Segmenter(segmenter).metadata.precision == "float16"
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT}
    kernels = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    weights = {tensor.data_type for tensor in graph.graph.initializer if tensor.name in kernels}
    assert weights == {onnx.TensorProto.FLOAT16} and len(half) < 0.7 * len(full)
    assert all(found.holds("float16") for found in card.block.onnx.parity)


def test_int8_is_calibrated_on_training_and_judged_on_validation(segmenter, phantoms, monkeypatch):
    monkeypatch.setitem(LEAST_DICE, "int8", 0.5)
    path, parities = export(segmenter, form=Form("int8"), data=phantoms)
    data = read_dataset(phantoms)
    assert [found.volume for found in parities] == [case.image.name for case in data.validation]
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert Segmenter(path).metadata.precision == "int8"


def test_int8_whose_dice_does_not_hold_is_refused_with_it(segmenter, phantoms, monkeypatch):
    monkeypatch.setitem(LEAST_DICE, "int8", 1.1)
    with pytest.raises(ExportError, match=r"exported in int8, is not its model: .*lowest Dice .*; nothing was written"):
        export(segmenter, form=Form("int8"), data=phantoms)
    assert not list(segmenter.glob("*.onnx*"))


def test_int8_needs_scans(segmenter, phantoms):
    scan = read_dataset(phantoms).validation[0].image
    with pytest.raises(ExportError, match="int8 is calibrated on some scans and judged on others.*--data"):
        export(segmenter, scan=scan, form=Form("int8"))


def test_a_precision_that_nobody_knows_is_refused():
    assert make_form("float16", None) == Form("float16")
    with pytest.raises(UnknownNameError, match="'flaot16'; did you mean 'float16'"):
        make_form("flaot16", None)


def test_a_graph_that_differs_is_refused_and_nothing_is_written(segmenter, monkeypatch):
    monkeypatch.setitem(LEAST_DICE, "float32", 1.1)
    with pytest.raises(ExportError, match=r"is not its model: CT-like phantom: .*; nothing was written"):
        export(segmenter)
    assert not list(segmenter.glob("*.onnx*")) and read_card(segmenter).block.onnx is None


def test_an_encoder_is_not_exported(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "run")
    with pytest.raises(CardError, match="is an encoder; export a model with a task"):
        export(tmp_path / "run")
