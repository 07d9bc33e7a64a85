"""SimCLR: the loss as its paper defines it, on one device and on two, and views that the generator decides."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimzoo.errors import ShapeError
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Component, Input, Optimiser, Pretraining, ZScore
from mimzoo_ssl.args import SimClrArgs
from mimzoo_ssl.simclr import nt_xent
from mimzoo_ssl.views import make_view

ENCODER = Component(name="vit-tiny", args={"patch": [4, 4, 4], "width": 24, "depth": 4, "heads": 2})

# Little is left of fine waves after strong changes.
MILD = {"smallest": 0.8, "noise": 0.05, "blur": 0.2, "cutout": 0.2}


def build(args=MILD, **parts):
    torch.manual_seed(0)
    recipe = Pretraining(
        objective=Component(name="simclr", args={"hidden": 16, "width": 8, **args}),
        data="random numbers",
        steps=1,
        batch=2,
        validate_every=1,
        optimiser=Optimiser(lr=1e-3),
        **parts,
    )
    seen = Input(channels=("CT",), spacing_mm=(1, 1, 1), intensity=ZScore(mode="zscore"), crop=(16, 16, 16))
    return build_objective(recipe, build_encoder(ENCODER, 1, (16, 16, 16)), ENCODER, seen)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def views(batch, seed=0):
    drawn = torch.randn(2, batch, 6, generator=generator(seed))
    return torch.nn.functional.normalize(drawn, dim=2)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(2, 6), seed=st.integers(0, 100), temperature=st.floats(0.05, 2.0))
def test_the_loss_is_equation_1_of_the_paper(batch, seed, temperature):
    first, second = views(batch, seed)
    every = torch.cat([first, second])
    losses = []
    for i in range(2 * batch):
        partner = (i + batch) % (2 * batch)
        others = [torch.exp(every[i] @ every[k] / temperature) for k in range(2 * batch) if k != i]
        losses.append(-torch.log(torch.exp(every[i] @ every[partner] / temperature) / sum(others)))
    assert torch.allclose(nt_xent(first, second, temperature), torch.stack(losses).mean(), atol=1e-4)


def test_a_single_crop_is_refused():
    with pytest.raises(ShapeError, match="needs at least two; raise pretraining.batch"):
        nt_xent(*views(1), 0.5)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"masking": Component(name="random")}, "objective 'simclr' uses no masking; set pretraining.masking=null"),
        ({"decoder": Component(name="linear")}, "objective 'simclr' uses no decoder; set pretraining.decoder=null"),
    ],
)
def test_parts_that_it_does_not_use_are_refused(parts, sentence):
    with pytest.raises(ShapeError, match=sentence):
        build(**parts)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_views_keep_the_shape_differ_from_each_other_and_are_decided_by_the_generator(shift):
    volume, args = torch.randn(3, 2, 16, 24, 8) + shift, SimClrArgs()
    one, same = (make_view(volume, generator(1), args) for _ in range(2))
    other = make_view(volume, generator(2), args)
    assert one.shape == volume.shape
    assert torch.equal(one, same)
    assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert (one - shift).abs().max() < 20, "amounts follow the deviation of the crop, not its level"


def test_without_changes_a_view_is_the_crop():
    volume = torch.randn(2, 1, 8, 8, 8)
    view = make_view(volume, generator(), SimClrArgs(smallest=1.0, flip=False, probability=0.0))
    assert torch.allclose(view, volume, atol=1e-5)


def test_a_constant_volume_gives_finite_views():
    assert make_view(torch.zeros(2, 1, 8, 8, 8), generator(), SimClrArgs()).isfinite().all()


def test_training_makes_views_of_one_crop_find_each_other():
    """Six crops of waves, each of another length: what mirroring, cutting and grey values do not change."""
    lengths = torch.tensor([16.0, 10, 7, 5, 3.5, 2.5])
    waves = torch.sin(2 * torch.pi * torch.arange(16) / lengths[:, None])
    objective, volume = build(), waves[:, None, :, None, None].expand(-1, -1, -1, 16, 16).contiguous()
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)

    def found():
        with torch.no_grad():
            pairs = [
                [objective.embed(make_view(volume, generator(900 + 2 * n + side), objective.args)) for side in (0, 1)]
                for n in range(4)
            ]
        return sum(((a @ b.T).argmax(1) == torch.arange(6)).float().mean().item() for a, b in pairs) / 4

    for step in range(100):
        optimiser.zero_grad()
        objective(volume, generator(step)).loss.backward()
        optimiser.step()
    assert found() > 0.5, "chance is 1 in 6"


WORKER = """
import os, sys, torch
from torch import distributed
sys.path.insert(0, {tests!r})
from test_simclr import views
from mimzoo_ssl.simclr import nt_xent
rank = int(os.environ["RANK"])
distributed.init_process_group("gloo")
first, second = views(6)
scale = torch.ones(6, requires_grad=True)
part = slice(3 * rank, 3 * rank + 3)
normal = lambda v: torch.nn.functional.normalize(v * scale, dim=1)
loss = nt_xent(normal(first)[part], normal(second)[part], 0.3)
loss.backward()
for value in (scale.grad, found := loss.detach()):
    distributed.all_reduce(value)
if rank == 0:
    torch.save({{"loss": found / 2, "grad": scale.grad / 2}}, {out!r})
distributed.destroy_process_group()
"""


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    """Gradients are averaged over processes, as DistributedDataParallel does."""
    out = tmp_path / "found.pt"
    code = WORKER.format(tests=os.path.dirname(__file__), out=str(out))  # noqa: PTH120
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29671", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    found = torch.load(out, weights_only=True)
    first, second = views(6)
    scale = torch.ones(6, requires_grad=True)
    loss = nt_xent(*(torch.nn.functional.normalize(v * scale, dim=1) for v in (first, second)), 0.3)
    loss.backward()
    assert torch.allclose(found["loss"], loss.detach(), atol=1e-5)
    assert torch.allclose(found["grad"], scale.grad, atol=1e-5)
