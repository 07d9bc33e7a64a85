"""The loss of each kind of task, against MONAI's and torch's, and by hand."""

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional

from mimzoo.losses import task_loss
from mimzoo.models import Scaled, TaskModel
from mimzoo.tasks import Target, make_task

CASES = ("a", "b")
LABELS = {1: "Core", 2: "Edema", 3: "Rim"}


class Given(torch.nn.Module):
    """A model whose outputs are given."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = torch.nn.Parameter(outputs)

    def forward(self, volume):
        return self.outputs


def batch(labels=None):
    return {"volume": torch.zeros(2, 1, 4, 4, 4), "case": CASES, "labels": labels}


def random_labels(count):
    return torch.randint(0, count, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))


def test_labels_are_judged_as_by_monai():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 4, 4, 4), random_labels(4)
    loss = task_loss(make_task(LABELS, None, None), {})(Given(logits), batch(labels), 0)
    wanted = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)(logits, labels[:, None])
    assert torch.equal(loss, wanted)


def test_regions_are_judged_each_by_itself_and_may_overlap():
    task = make_task(LABELS, {"Rim": ("Rim",), "All": ("Core", "Edema", "Rim")}, None)
    labels = random_labels(4)
    masks = torch.stack([labels > 0, labels == 3], 1)
    right = torch.where(masks, 20.0, -20.0)
    judge = task_loss(task, {})
    assert task.outputs == ("All", "Rim")
    assert judge(Given(right), batch(labels), 0) < 1e-3
    assert judge(Given(right.flip(1)), batch(labels), 0) > 1
    assert judge(Given(-right), batch(labels), 0) > 20


def test_classes_are_judged_by_cross_entropy_on_what_is_true_of_the_cases():
    task = make_task(None, None, Target(column="diagnosis", classes=("CN", "AD")))
    logits = torch.tensor([[2.0, 0.0], [0.5, 1.0]])
    loss = task_loss(task, {"a": 0.0, "b": 1.0})(Given(logits), batch(), 0)
    assert loss == functional.cross_entropy(logits, torch.tensor([0, 1]))


def test_a_value_is_judged_in_units_of_its_spread():
    task = make_task(None, None, Target(column="age", unit="years"))
    head = Scaled(Head(torch.tensor([[0.0], [1.0]])))
    head.scale.fill_(10.0)
    head.shift.fill_(70.0)
    model = TaskModel(Maps(), head)
    assert model(batch()["volume"]).flatten().tolist() == [70.0, 80.0]
    loss = task_loss(task, {"a": 70.0, "b": 90.0})(model, batch(), 0)
    # off by 0 and by one spread: smooth L1 of 1 is 0.5
    assert loss.item() == pytest.approx(0.25)


class Head(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = torch.nn.Parameter(outputs)

    def forward(self, maps, volume):
        return self.outputs


class Maps(torch.nn.Module):
    def forward(self, volume):
        return [volume]
