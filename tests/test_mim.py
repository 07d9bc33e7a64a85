"""Masking, reconstruction decoders and objectives, beyond what conformance asks."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimzoo.errors import ShapeError
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Component, Input, Optimiser, Pretraining, ZScore
from mimzoo.registry import find
from mimzoo.tokens import Tokens, expand_mask, gather_tokens, hidden_index, patchify
from mimzoo_mim.args import UnitArgs
from mimzoo_mim.masking import RandomMasking

ENCODER = Component(name="vit-tiny", args={"patch": [4, 4, 4], "width": 24, "depth": 4, "heads": 2})
SMALL = Component(name="transformer", args={"width": 24, "depth": 1, "heads": 2})


def make(objective, decoder=None, unit=(4, 4, 4), crop=(16, 16, 16), ratio=0.5, channels=("CT",)):
    torch.manual_seed(0)
    decoder = decoder or (SMALL if objective.name == "mae" else Component(name="linear"))
    recipe = Pretraining(
        objective=objective,
        masking=Component(name="random", args={"unit": list(unit), "ratio": ratio}),
        decoder=decoder,
        data="random numbers",
        steps=1,
        batch=1,
        validate_every=1,
        optimiser=Optimiser(lr=1e-3),
    )
    seen = Input(channels=channels, spacing_mm=(1, 1, 1), intensity=ZScore(mode="zscore"), crop=crop)
    return build_objective(recipe, build_encoder(ENCODER, len(channels), crop), ENCODER, seen)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mask_of(ratio, unit, crop, batch=2, seed=0, mask_unit=(1, 1, 1)):
    return RandomMasking(UnitArgs(ratio=ratio, unit=unit))(torch.zeros(batch, 1, *crop), generator(seed), mask_unit)


three = st.tuples(*[st.integers(1, 5)] * 3)


@given(three, three, st.floats(0.01, 0.99), st.integers(1, 4), st.integers(0, 2**31))
@settings(deadline=None)
def test_random_masking_hides_the_rounded_share_of_each_sample_or_says_why_not(unit, units, ratio, batch, seed):
    crop = tuple(n * u for n, u in zip(units, unit, strict=True))
    hidden = round(ratio * prod(units))
    if not 0 < hidden < prod(units):
        with pytest.raises(ShapeError, match=r"hides (none|all) of the"):
            mask_of(ratio, unit, crop, batch, seed)
        return
    mask = mask_of(ratio, unit, crop, batch, seed)
    assert mask.shape == (batch, *units)
    assert mask.flatten(1).sum(1).tolist() == [hidden] * batch
    assert torch.equal(mask, mask_of(ratio, unit, crop, batch, seed))


def test_random_masking_hides_every_unit_equally_often():
    often = mask_of(0.75, (1, 1, 1), (2, 2, 2), batch=8000).float().mean(0)
    assert (often - 0.75).abs().max() < 0.03


@pytest.mark.parametrize(
    ("unit", "crop", "mask_unit", "sentence"),
    [
        ((4, 4, 4), (16, 16, 16), (8, 8, 8), "the mask unit 4 x 4 x 4 .* the nearest is 8 x 8 x 8"),
        ((12, 8, 8), (24, 16, 16), (8, 8, 8), "the mask unit 12 x 8 x 8"),
        ((8, 8, 8), (20, 16, 16), (8, 8, 8), "the crop 20 x 16 x 16"),
    ],
)
def test_units_that_do_not_fit_are_refused(unit, crop, mask_unit, sentence):
    with pytest.raises(ShapeError, match=sentence):
        mask_of(0.5, unit, crop, mask_unit=mask_unit)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_ratios_that_are_none_are_refused(ratio):
    with pytest.raises(ShapeError, match="argument 'ratio'"):
        find("masking", "random").check({"ratio": ratio})


@pytest.mark.parametrize(
    ("objective", "decoder", "sentence"),
    [
        ("mae", "linear", "'mae' drops hidden units, but decoder 'linear' supports only replace"),
        (
            "simmim",
            "transformer",
            "'simmim' replaces hidden units by a token, but decoder 'transformer' supports only drop",
        ),
    ],
)
def test_an_objective_and_a_decoder_that_disagree_are_refused_when_built(objective, decoder, sentence):
    with pytest.raises(ShapeError, match=sentence):
        make(Component(name=objective), Component(name=decoder))


def test_a_masking_that_does_not_fit_the_crop_is_refused_when_built():
    with pytest.raises(ShapeError, match="hides all of the 1 units"):
        make(Component(name="mae"), unit=(16, 16, 16), ratio=0.9)
    with pytest.raises(ShapeError, match="the mask unit 2 x 2 x 2"):
        make(Component(name="mae"), unit=(2, 2, 2))


def test_one_seed_hides_the_same_under_both_objectives():
    volume = torch.randn(2, 1, 16, 16, 16)
    masks = [make(Component(name=name)).reconstruct(volume, generator(5))[2] for name in ("mae", "simmim")]
    assert torch.equal(*masks)


class Oracle(torch.nn.Module):
    """Predicts what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, tokens: Tokens):
        return gather_tokens(self.answer(tokens), hidden_index(tokens.mask))


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("unit", [(4, 4, 4), (8, 8, 4)])
def test_the_loss_is_over_hidden_voxels_normalised_in_their_unit(unit, loss):
    """Recomputed by plain slices: a decoder that answers 0 leaves the mean of |target| or target squared."""
    objective = make(Component(name="mae", args={"loss": loss}), unit=unit, channels=("T1", "T2"))
    volume = torch.randn(1, 2, 16, 16, 16) * 5 + 3
    objective.decoder = Oracle(lambda tokens: torch.zeros(1, 64, 2 * 64))
    found = objective(volume, generator(1)).loss
    mask = objective.masking(torch.zeros(1, 1, 16, 16, 16), generator(1), (4, 4, 4))
    targets = []
    for x, y, z in mask[0].nonzero().tolist():
        part = volume[0, :, x * unit[0] :, y * unit[1] :, z * unit[2] :][:, : unit[0], : unit[1], : unit[2]]
        targets += [((channel - channel.mean()) / (channel.var() + 1e-6).sqrt()).flatten() for channel in part]
    target = torch.cat(targets)
    wanted = target.abs().mean() if loss == "l1" else target.square().mean()
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_perfect_prediction_of_raw_voxels_has_no_loss_and_restores_the_volume():
    objective = make(Component(name="simmim"), unit=(8, 4, 4))
    volume = torch.randn(2, 1, 16, 16, 16)
    objective.decoder = Oracle(lambda tokens: patchify(volume, tokens.patch))
    assert objective(volume, generator()).loss.item() == 0
    masked, restored, mask = objective.reconstruct(volume, generator())
    assert torch.equal(restored, volume)
    hidden = expand_mask(mask, (16, 16, 16))[:, None]
    assert torch.equal(masked, volume.masked_fill(hidden, 0))


def test_a_constant_unit_has_a_finite_normalised_loss():
    """Air is constant in CT, so its deviation is 0."""
    objective = make(Component(name="mae"))
    loss = objective(torch.zeros(1, 1, 16, 16, 16), generator()).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_a_prediction_of_a_normalised_target_is_scaled_back():
    objective = make(Component(name="mae"))
    volume = torch.randn(1, 1, 16, 16, 16) * 100 + 1000
    objective.decoder = Oracle(lambda tokens: torch.zeros(1, 64, 64))
    _, restored, mask = objective.reconstruct(volume, generator())
    tokens, hidden = patchify(restored, (4, 4, 4)), hidden_index(mask)
    means = patchify(volume, (4, 4, 4)).mean(2, keepdim=True).expand_as(tokens)
    assert torch.allclose(gather_tokens(tokens, hidden), gather_tokens(means, hidden), rtol=1e-5)


def test_the_decoder_predicts_by_position_not_by_order():
    """With visible tokens all alike, predictions at two hidden places differ only by their positions."""
    spec = find("decoder", "transformer")
    torch.manual_seed(0)
    decoder = spec.load()(spec.check({"width": 24, "depth": 2, "heads": 2}), 8, (4, 4, 4), (8, 8, 8), 1)
    mask = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0] = False
    predicted = decoder(Tokens(torch.ones(1, 1, 8), mask, (4, 4, 4), True))
    assert predicted.shape == (1, 7, 64)
    assert len(torch.unique(predicted[0].round(decimals=5), dim=0)) == 7


@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_another_crop_than_the_one_built_for_trains_too(name):
    objective = make(Component(name=name))
    assert objective(torch.randn(1, 1, 8, 24, 16), generator()).loss.isfinite()


def test_state_splits_into_encoder_and_rest():
    for name, rest in (("mae", {"decoder"}), ("simmim", {"decoder", "mask_token"})):
        parts = {key.split(".")[0] for key in make(Component(name=name)).state_dict()}
        assert parts == {"encoder", *rest}


def test_training_in_replace_mode_moves_the_mask_token():
    objective = make(Component(name="simmim"))
    objective(torch.randn(1, 1, 16, 16, 16), generator()).loss.backward()
    assert objective.mask_token.grad.abs().sum() > 0
