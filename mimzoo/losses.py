"""The loss of a batch for each kind of task: from crops and their labels, or from what is true of their scans."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks.utils import one_hot
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.processes import sum_everywhere
from mimzoo.tasks import Task

# What keeps the Dice of masks that are nowhere defined.
SMOOTH = 1e-5
LossOf = Callable[[nn.Module, dict[str, Any], int], Tensor]


def task_loss(task: Task, truths: Mapping[str, float]) -> LossOf:
    """Return the loss of a task, a function of (model, batch, step).

    A batch has "volume" (B, C, X, Y, Z), "case" (B ids), and "labels" (B, X, Y, Z) where voxels are labelled; `truths`
    says what is true of the scan of each case. Labels: soft Dice over the foreground plus cross-entropy over all
    classes. Regions: soft Dice plus binary cross-entropy, of each region by itself (as nnU-Net does for BraTS, Isensee
    et al. 2020, arXiv 2011.00848). Classes: cross-entropy. A value: smooth L1 in units of its spread.
    Of several processes each judges its own crops; their mean is the loss of all of these as one batch.
    """
    return {
        "labels": lambda: labels_loss(),
        "regions": lambda: regions_loss(task.regions),
        "classes": lambda: classes_loss(truths),
        "value": lambda: value_loss(truths),
    }[task.kind]()


def labels_loss() -> LossOf:
    """Return the loss of exclusive labels."""

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        logits, labels = model(batch["volume"]).float(), batch["labels"]
        classes = one_hot(labels[:, None], logits.shape[1])
        return dice_loss(logits.softmax(1)[:, 1:], classes[:, 1:]) + functional.cross_entropy(logits, labels)

    return loss_of


def regions_loss(regions: Mapping[str, tuple[int, ...]]) -> LossOf:
    """Return the loss of regions, each a set of label values, that may overlap."""

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        logits, labels = model(batch["volume"]).float(), batch["labels"]
        values = [torch.tensor(values, device=labels.device) for values in regions.values()]
        # (B, X, Y, Z) -> (B, regions, X, Y, Z)
        masks = torch.stack([torch.isin(labels, known) for known in values], 1).to(logits.dtype)
        return dice_loss(logits.sigmoid(), masks) + functional.binary_cross_entropy_with_logits(logits, masks)

    return loss_of


def dice_loss(found: Tensor, true: Tensor) -> Tensor:
    """Return 1 - soft Dice of probabilities and masks, both (B, K, X, Y, Z), mean over the K masks.

    Computes what MONAI's DiceLoss does with `batch=True`, over the crops of all processes.
    """
    axes = (0, 2, 3, 4)
    both, predicted, real = sum_everywhere(torch.stack([(found * true).sum(axes), found.sum(axes), true.sum(axes)]))
    wrong = 0.5 * (predicted - both) + 0.5 * (real - both)
    loss: Tensor = (1 - (2 * both + SMOOTH) / (2 * (both + wrong) + SMOOTH)).mean()
    return loss


def classes_loss(truths: Mapping[str, float]) -> LossOf:
    """Return the loss of a classifier; `truths` holds the number of each case's class."""

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        logits = model(batch["volume"]).float()
        return functional.cross_entropy(logits, _true(batch, truths, logits).long())

    return loss_of


def value_loss(truths: Mapping[str, float]) -> LossOf:
    """Return the loss of a regressor, whose head ends in `Scaled`."""

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        found = model(batch["volume"]).float()[:, 0]
        scale = next(buffer for name, buffer in model.named_buffers() if name.endswith("head.scale"))
        return functional.smooth_l1_loss(found / scale, _true(batch, truths, found) / scale)

    return loss_of


def _true(batch: dict[str, Any], truths: Mapping[str, float], like: Tensor) -> Tensor:
    return torch.tensor([truths[name] for name in batch["case"]], device=like.device, dtype=torch.float32)
