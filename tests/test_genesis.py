"""Models Genesis: what its corruptions do to a crop, and that restoring is what is asked for."""

import pytest
import torch

from mimzoo.cards import override
from mimzoo.pretrain import pretrain
from mimzoo_ssl.args import GenesisArgs
from mimzoo_ssl.corruption import bend_intensities, corrupt, paint, shuffle_texture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_bent_intensities_keep_or_turn_their_order():
    volume = torch.rand(6, 1, 6, 6, 6)
    bent = bend_intensities(volume, generator(3))
    assert bent.shape == volume.shape
    assert bent.min() >= 0
    assert bent.max() <= 1
    directions = set()
    for before, after in zip(volume.flatten(1), bent.flatten(1), strict=True):
        steps = after[before.argsort()].diff()
        assert (steps >= -1e-6).all() or (steps <= 1e-6).all()
        directions.add(bool(after[before.argmax()] > after[before.argmin()]))
    assert directions == {True, False}


@pytest.mark.parametrize("shape", [(2, 1, 12, 12, 12), (2, 2, 7, 9, 3), (1, 1, 2, 2, 1)])
def test_shuffling_moves_voxels_nearby_and_loses_none(shape):
    volume = torch.rand(shape)
    mixed = shuffle_texture(volume, generator(1))
    assert torch.equal(mixed.flatten(2).sort().values, volume.flatten(2).sort().values)
    ramp = torch.arange(shape[2], dtype=torch.float32)[None, None, :, None, None].expand(shape)
    assert (shuffle_texture(ramp, generator(1)) - ramp).abs().max() < 4
    assert not torch.equal(mixed, volume)


@pytest.mark.parametrize("inside", [True, False])
def test_painting_covers_boxes_or_all_but_boxes(inside):
    volume = torch.full((4, 1, 24, 24, 24), -5.0)
    covered = paint(volume, generator(2), (1 / 6, 1 / 3) if inside else (3 / 7, 4 / 7), inside) != -5
    shares = covered.float().mean(dim=(1, 2, 3, 4))
    assert ((shares > 0.005) & (shares < 0.25)).all() if inside else ((shares > 0.3) & (shares < 0.95)).all()


def test_corruption_is_decided_by_the_generator_and_leaves_alone_what_it_should():
    volume = 300 * torch.rand(2, 1, 16, 16, 16) - 100
    one, same, other = (corrupt(volume, generator(seed), GenesisArgs()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= volume.min() - 1e-3
    assert one.max() <= volume.max() + 1e-3
    untouched = corrupt(volume, generator(1), GenesisArgs(nonlinear=0, shuffling=0, painting=0))
    assert torch.allclose(untouched, volume, atol=1e-3)
    assert corrupt(torch.zeros(1, 1, 8, 8, 8), generator(), GenesisArgs()).isfinite().all()


OBJECTIVES = {
    "models-genesis": ["pretraining.masking=null", "pretraining.decoder={name: convolution, args: {width: 8}}"],
    "simclr": ["pretraining.masking=null", "pretraining.decoder=null"],
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_without_masking_leaves_weights_and_figures(name, tiny_encoder, phantoms, tmp_path):
    changes = [f"pretraining.objective={{name: {name}}}", "pretraining.decoder=null", *OBJECTIVES[name]]
    card = pretrain(override(tiny_encoder, changes), phantoms, tmp_path / "run")
    assert card.block.weights is not None
    assert (tmp_path / "run" / "curves.png").is_file()
    assert (tmp_path / "run" / "reconstruction.png").is_file() == (name == "models-genesis")
    history = (tmp_path / "run" / "history.csv").read_text()
    assert ("baseline" in history) == (name == "models-genesis")
