"""The loss of a batch for each kind of task: from crops and their labels, or from what is true of their scans."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tasks import Task

LossOf = Callable[[nn.Module, dict[str, Any], int], Tensor]


def task_loss(task: Task, truths: Mapping[str, float]) -> LossOf:
    """Return the loss of a task, a function of (model, batch, step).

    A batch has "volume" (B, C, X, Y, Z), "case" (B ids), and "labels" (B, X, Y, Z) where voxels are labelled; `truths`
    says what is true of the scan of each case. Labels: soft Dice over the foreground plus cross-entropy over all
    classes (MONAI). Regions: soft Dice plus binary cross-entropy, of each region by itself (as nnU-Net does for BraTS,
    Isensee et al. 2020, arXiv 2011.00848). Classes: cross-entropy. A value: smooth L1 in units of its spread.
    """
    return {
        "labels": lambda: labels_loss(),
        "regions": lambda: regions_loss(task.regions),
        "classes": lambda: classes_loss(truths),
        "value": lambda: value_loss(truths),
    }[task.kind]()


def labels_loss() -> LossOf:
    """Return the loss of exclusive labels."""
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        loss: Tensor = criterion(model(batch["volume"]).float(), batch["labels"][:, None])
        return loss

    return loss_of


def regions_loss(regions: Mapping[str, tuple[int, ...]]) -> LossOf:
    """Return the loss of regions, each a set of label values, that may overlap."""
    dice = DiceLoss(sigmoid=True, batch=True)

    def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
        logits, labels = model(batch["volume"]).float(), batch["labels"]
        values = [torch.tensor(values, device=labels.device) for values in regions.values()]
        # (B, X, Y, Z) -> (B, regions, X, Y, Z)
        masks = torch.stack([torch.isin(labels, known) for known in values], 1).to(logits.dtype)
        loss: Tensor = dice(logits, masks) + functional.binary_cross_entropy_with_logits(logits, masks)
        return loss

    return loss_of


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
