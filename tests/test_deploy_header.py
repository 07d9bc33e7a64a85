"""What an ONNX file says of itself: as the onnx package reads it, and nothing of other files or of damaged ones."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from thresholds import as_model, linear_graph, metadata, save_model, threshold_graph, with_content

from mimzoo.deploy.header import Value, read_header
from mimzoo.errors import ExportError

GRAPHS = {
    "thresholds": threshold_graph,
    "linear": lambda: linear_graph(np.ones((3, 2)), [0, 1, 2]),
    "of scans": lambda: linear_graph(np.ones((3, 2)), [0, 1, 2], of_scan=True),
    "open": lambda: threshold_graph(out_shape=["b", "k", "x", "y", "z"]),
    "fixed batch": lambda: threshold_graph(batch=1, kind=TensorProto.DOUBLE),
}


def as_onnx_says(value):
    kind = value.type.tensor_type
    return Value(value.name, kind.elem_type, tuple(axis.dim_value or None for axis in kind.shape.dim))


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_a_header_is_what_the_onnx_package_reads(make, tmp_path):
    props = {**metadata().to_props(), "other": "ä" * 200, "empty": ""}
    path = save_model(tmp_path / "m.onnx", props=props, graph=make())
    header, model = read_header(path), onnx.load(path)
    assert header.props == props == {prop.key: prop.value for prop in model.metadata_props}
    assert header.inputs == tuple(map(as_onnx_says, model.graph.input))
    assert header.outputs == tuple(map(as_onnx_says, model.graph.output))


# --- weights in other files

OUTSIDE = ("/etc/passwd", "../secret.bin", "weights.bin")


def placed(location):
    """A tensor whose numbers lie in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    return tensor


def in_a_branch(location):
    inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=placed(location))], "branch", [], [])
    return helper.make_node("If", ["condition"], ["z"], then_branch=inner, else_branch=inner)


def in_a_function(location):
    node = helper.make_node("Constant", [], ["y"], value=placed(location))
    return helper.make_function("mine", "F", [], ["y"], [node], [helper.make_opsetid("", 18)])


HIDDEN = {
    "weights": lambda model, place: model.graph.initializer.append(placed(place)),
    "constant": lambda model, place: model.graph.node.append(
        helper.make_node("Constant", [], ["y"], value=placed(place))
    ),
    "branch": lambda model, place: model.graph.node.append(in_a_branch(place)),
    "function": lambda model, place: model.functions.append(in_a_function(place)),
    "sparse": lambda model, place: model.graph.sparse_initializer.add().values.CopyFrom(placed(place)),
    "training": lambda model, place: model.training_info.add().algorithm.initializer.append(placed(place)),
}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_in_another_file_are_refused_wherever_they_hide(hide, location, tmp_path):
    model = threshold_graph()
    hide(model, location)
    path = with_content(tmp_path / "m.onnx", model.SerializeToString())
    with pytest.raises(ExportError, match=rf"m\.onnx: keeps weights in another file \('{location}'\)"):
        read_header(path)


def test_weights_beside_a_file_are_refused_as_onnx_writes_them(tmp_path):
    model = as_model([], [], [], {"weights": np.ones(4096, np.float32)})
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    with pytest.raises(ExportError, match=r"\('weights\.bin'\)"):
        read_header(tmp_path / "m.onnx")


# --- damage


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, content):
    path = with_content(tmp_path_factory.mktemp("any") / "m.onnx", content)
    try:
        read_header(path)
    except ExportError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_a_file_that_is_cut_anywhere_is_refused_or_has_no_more_than_it_had(tmp_path):
    whole = save_model(tmp_path / "m.onnx")
    content, header = whole.read_bytes(), read_header(whole)
    for length in range(len(content)):
        try:
            cut = read_header(with_content(tmp_path / "cut.onnx", content[:length]))
        except ExportError:
            continue
        assert cut.props == {} and cut.inputs == header.inputs


def test_a_graph_of_endless_branches_is_refused(tmp_path):
    body = b""
    for _ in range(2000):
        # graph -> node (1) -> attribute (5) -> graph (6)
        for key in (6, 5, 1):
            body = bytes([key << 3 | 2]) + varint(len(body)) + body
    path = with_content(tmp_path / "m.onnx", bytes([7 << 3 | 2]) + varint(len(body)) + body)
    with pytest.raises(ExportError, match="not an ONNX file"):
        read_header(path)


def varint(number):
    out = []
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
