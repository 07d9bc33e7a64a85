"""Exported graphs, and the kind of volume on which their accuracy is judged."""

import warnings

import numpy as np
import onnxruntime
import torch


def constant_air(size=32):
    """A CT-like volume (1, 1, size, size, size) in 0..1: a noisy body with a dense core in air that is exactly 0."""
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij"))
    radius = np.sqrt((axes**2).sum(0))
    noise = np.random.default_rng(0).normal(0.5, 0.03, radius.shape)
    body = np.where(radius < 0.15, 1.0, np.where(radius < 0.5, noise, 0.0))
    return torch.from_numpy(body.astype(np.float32))[None, None]


def exported(module, sample):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.onnx.export(
            module, (sample,), dynamic_shapes=shapes, opset_version=20, dynamo=True, verbose=False
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    return lambda volume: torch.from_numpy(session.run(None, {name: volume.numpy()})[0])
