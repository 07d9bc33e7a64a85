"""Every head with every family of encoders fine-tunes and deploys, or is refused for the reason that the docs state."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mimzoo.recipes import Component
from mimzoo.specs import HeadSpec, Spec
from mimzoo.testing.headgrid import Outcome, families, head_table, try_encoder

TOOL = Path(__file__).parents[1] / "tools" / "make_heads.py"
SMALL = Component(name="vit-tiny", args={"patch": [8, 8, 8], "width": 24, "depth": 4, "heads": 2})
LIGHT = [Component(name="convolution", args={"width": 8}), Component(name="mean-pool")]


@pytest.mark.timeout(600)
def test_the_tables_in_the_docs_are_what_training_and_deployment_give():
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr + done.stdout


def volume(seed=0):
    return torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(seed))


def as_it_is(model, sample):
    """Deployment by torch itself."""
    return model


def changed(change):
    """Deployment whose logits are changed."""
    return lambda model, sample: lambda volumes: [change(found) for found in model(volumes)]


def test_a_family_is_the_encoders_of_one_architecture():
    assert families()["vit-*"] in {"vit-tiny", "vit-small", "vit-base"}
    assert "vit-tiny" not in families()


def test_heads_that_train_and_deploy_are_taken_and_others_say_why():
    found = try_encoder(SMALL, [*LIGHT, Component(name="swin-unetr")], volume(), as_it_is)
    assert found["convolution"] is None and found["mean-pool"] is None
    assert "8 x 8 x 8, 8 x 8 x 8" in found["swin-unetr"]


def test_nothing_is_deployed_when_every_head_is_refused():
    def never(model, sample):
        raise AssertionError("deployed")

    assert list(try_encoder(SMALL, [Component(name="swin-unetr")], volume(), never)) == ["swin-unetr"]


def test_a_loss_that_is_not_finite_is_noticed():
    with pytest.raises(AssertionError, match="vit-tiny with convolution: its loss is nan"):
        try_encoder(SMALL, LIGHT, volume() * float("nan"), as_it_is)


class Frozen(nn.Module):
    """A head for whole scans whose weights, or those of the encoder, get no gradient."""

    def __init__(self, of_encoder):
        super().__init__()
        self.of_encoder, self.logits = of_encoder, nn.Linear(24, 3)

    def forward(self, maps, volume):
        mean = maps[-1].mean((2, 3, 4))
        return self.logits(mean.detach()) if self.of_encoder else mean[:, :3] + self.logits(mean).detach()


@pytest.mark.parametrize(("of_encoder", "part"), [(True, "encoder"), (False, "head")])
def test_a_part_that_no_step_moves_is_noticed(monkeypatch, of_encoder, part):
    load = Spec.load
    frozen = lambda args, channels, strides, in_channels, classes: Frozen(of_encoder)  # noqa: E731
    monkeypatch.setattr(HeadSpec, "load", lambda spec: frozen if spec.name == "mean-pool" else load(spec))
    with pytest.raises(AssertionError, match=f"vit-tiny with mean-pool: a step moves no weight of the {part}"):
        try_encoder(SMALL, LIGHT, volume(), as_it_is)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda logits: logits + 2e-3, "convolution, deployed, on 1: logits differ by up to 2.0e-03"),
        (lambda logits: logits[:1], r"convolution, deployed, on 2: logits \(1, 3, 32, 32, 32\) and not"),
    ],
)
def test_a_deployed_form_that_computes_something_else_is_noticed(change, sentence):
    with pytest.raises(AssertionError, match=sentence):
        try_encoder(SMALL, LIGHT, volume(), changed(change))


def test_a_clear_decision_that_is_another_is_noticed_however_small_the_logits(monkeypatch):
    """All logits lie within the tolerance here, and only their order is wrong."""
    monkeypatch.setattr("mimzoo.testing.headgrid.TOLERANCE", 1e9)
    with pytest.raises(AssertionError, match=r"on 1: \d+ clear decisions are others"):
        try_encoder(SMALL, LIGHT, volume(), changed(lambda logits: -logits))


def test_the_table_numbers_each_reason_once():
    table = head_table(
        [
            Outcome("a-*", "unetr"),
            Outcome("a-*", "mean-pool"),
            Outcome("b", "unetr", "b has other strides"),
            Outcome("b", "mean-pool", "b has other strides"),
        ]
    )
    assert table.splitlines() == [
        "| encoder | `unetr` | `mean-pool` |",
        "|---|---|---|",
        "| `a-*` | yes | yes |",
        "| `b` | no (1) | no (1) |",
        "",
        "1. b has other strides",
    ]
