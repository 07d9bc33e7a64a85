"""ONNX files whose answers are known by hand, and scans for them."""

import nibabel as nib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mimzoo.deploy import Metadata
from mimzoo.recipes import Input, WindowHU

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
    outputs = [helper.make_tensor_value_info(names[1], kind, out_shape or [batch, classes, *roi])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("scaled", kind, [batch, classes, *roi]))
    inputs = [helper.make_tensor_value_info(names[0], kind, [batch, channels, *roi])]
    return as_model(nodes, inputs, outputs, {"axis": np.array([1]), "slope": slope, "offset": offset})


def linear_graph(weights, bias, of_scan=False, roi=ROI, out_shape=None):
    """A network whose logits are `weights` (K, C) times the channels plus `bias` (K), voxel by voxel.

    With `of_scan` the mean of the channels over the window takes the place of a voxel: logits are (B, K).
    """
    outputs, channels = np.shape(weights)
    nodes = [helper.make_node("Conv", ["volume", "weights", "bias"], ["logits"])]
    constants = {
        "weights": np.reshape(weights, (outputs, channels, 1, 1, 1)).astype(np.float32),
        "bias": np.array(bias, np.float32),
    }
    if of_scan:
        nodes[0].output[0] = "voxels"
        nodes.append(helper.make_node("ReduceMean", ["voxels", "axes"], ["logits"], keepdims=0))
        constants["axes"] = np.array([2, 3, 4])
    shape = out_shape or ["batch", outputs, *([] if of_scan else roi)]
    return as_model(
        nodes,
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, ["batch", channels, *roi])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        constants,
    )


def as_model(nodes, inputs, outputs, constants):
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "known", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_model(path, about=None, props=None, graph=None, **thresholds):
    """Write a graph, by default one of thresholds, with its metadata."""
    model = graph or threshold_graph(**thresholds)
    helper.set_model_props(model, (about or metadata()).to_props() if props is None else props)
    onnx.save_model(model, path)
    return path


def save_scan(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def noise(shape=(20, 18, 15), seed=0):
    return np.random.default_rng(seed).integers(-200, 1200, shape).astype(np.int16)


def counted(voxels, thresholds=THRESHOLDS):
    return sum((voxels > t).astype(np.uint8) for t in thresholds)


def with_content(path, content):
    path.write_bytes(content)
    return path


# An anisotropic, oblique grid with reversed and exchanged axes.
SHAPE, OBLIQUE = (44, 60, 24), np.eye(4)
OBLIQUE[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)[:, [1, 0, 2]] * [-1.1, 0.8, 2.5]
OBLIQUE[:3, 3] = [30, -40, 12]
CENTRE = (OBLIQUE @ [*(np.array(SHAPE) - 1) / 2, 1])[:3]


def ball(shape=SHAPE, affine=OBLIQUE, centre=CENTRE, radius_mm=18.0):
    """A ball in the world, 1000 inside and 0 outside, and which voxels (X, Y, Z) it holds."""
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    distance = np.linalg.norm((index @ affine.T)[..., :3] - centre, axis=-1)
    # a soft edge one voxel wide, so that interpolation is not a question of luck
    voxels = 1000 / (1 + np.exp((distance - radius_mm) / 1.5))
    return voxels.astype(np.float32), distance < radius_mm


def dice(ours, theirs):
    return 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))
