"""Torch models on whole scans, by the preparation and sliding windows of deployment."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mimzoo.answers import Answer, answer
from mimzoo.cards import Card
from mimzoo.protocols import recipe_of
from mimzoo.sweep import Sweep
from mimzoo.volume import Volume, prepare

Answering = Callable[[Volume], Answer]


def answer_with(model: nn.Module, card: Card) -> Answering:
    """Return the function from a scan to its answer: a label map, region masks, or what is told of the whole of it.

    Raises CardError for a card without a task.
    """
    block = card.block
    sweep = Sweep(block.input.crop, recipe_of(card).overlap, threads=torch.get_num_threads())
    predict = numpy_predictor(model)
    return lambda scan: answer(block.task, predict, prepare(scan, block.input), sweep)


def numpy_predictor(model: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return the model as a function from windows (B, C, *roi) to outputs, (B, K, *roi) or (B, K), in numpy."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def predict(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: torch.Tensor = model(torch.from_numpy(windows).to(device))
        return outputs.float().cpu().numpy()

    return predict
