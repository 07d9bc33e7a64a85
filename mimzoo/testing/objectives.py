"""What every pretraining objective must do."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mimzoo.convolutions import make_wary
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Component, Input, Optimiser, Pretraining, ZScore
from mimzoo.registry import find
from mimzoo.testing.common import CHANNELS, require, sample_volume
from mimzoo.tokens import Size, expand_mask

CROP: Size = (16, 32, 16)
ENCODER = Component(name="vit-tiny", args={"patch": [8, 8, 8], "width": 48, "depth": 4, "heads": 3})
MASKING = Component(name="random", args={"unit": [8, 8, 8], "ratio": 0.5})
DECODERS = {
    "drop": Component(name="transformer", args={"width": 48, "depth": 1, "heads": 3}),
    "replace": Component(name="linear"),
}
STEPS = 12


def check_objective(
    name: str, args: Mapping[str, Any] | None = None, encoder: Component = ENCODER, decoder: Component | None = None
) -> None:
    """Check the registered objective `name` over a small encoder (a ViT); raise AssertionError if it fails.

    A finite float32 loss that the generator decides alone, gradients to every parameter, and a loss that training
    lowers. Where it has pictures, they keep the visible voxels and show nothing of the hidden ones.
    """
    objective = _build(name, args or {}, encoder, decoder)
    _check_loss(name, objective)
    if hasattr(objective, "reconstruct"):
        _check_pictures(name, objective)
        if "masking" in find("objective", name).needs:
            _check_hiding(name, objective)
    _check_learns(name, objective)


def _build(name: str, args: Mapping[str, Any], encoder: Component, decoder: Component | None) -> nn.Module:
    spec = find("objective", name)
    mode = getattr(spec.check(args), "mode", "drop")
    recipe = Pretraining(
        objective=Component(name=name, args=dict(args)),
        masking=MASKING if "masking" in spec.needs else None,
        decoder=decoder or DECODERS[mode] if "decoder" in spec.needs else None,
        data="random numbers",
        steps=STEPS,
        batch=2,
        validate_every=STEPS,
        optimiser=Optimiser(lr=1e-3),
    )
    channels = tuple(f"channel {number}" for number in range(CHANNELS))
    seen = Input(channels=channels, spacing_mm=(1, 1, 1), intensity=ZScore(mode="zscore"), crop=CROP)
    torch.manual_seed(0)
    return build_objective(recipe, build_encoder(encoder, CHANNELS, CROP), encoder, seen)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _check_loss(name: str, objective: nn.Module) -> None:
    volume = sample_volume(CROP)
    state = torch.get_rng_state()
    with torch.no_grad():
        loss, again, other = (objective(volume, _generator(seed)).loss for seed in (0, 0, 1))
    right = loss.shape == () and loss.dtype == torch.float32 and bool(loss.isfinite())
    require(right, name, f"its loss is no finite float32 scalar: {loss}")
    require(torch.equal(loss, again), name, "one seed gives two losses")
    require(not torch.equal(loss, other), name, "two seeds give one loss")
    require(torch.equal(state, torch.get_rng_state()), name, "it draws from torch's global generator")
    make_wary(objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = objective(volume, _generator(0)).loss
    require(bool(half.isfinite()) and half.dtype == torch.float32, name, f"in bfloat16 its loss is {half}")


def _check_learns(name: str, objective: nn.Module) -> None:
    optimiser = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    volume, losses = sample_volume(CROP), []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = objective(volume, _generator(0)).loss
        loss.backward()
        for key, parameter in objective.named_parameters():
            require(parameter.grad is not None, name, f"no gradient reaches the parameter {key!r}")
        optimiser.step()
        losses.append(loss.item())
    require(losses[-1] < losses[0], name, f"{STEPS} steps on one crop do not lower its loss: {losses}")


def _check_pictures(name: str, objective: nn.Module) -> None:
    volume = sample_volume(CROP)
    seen, restored, mask = objective.reconstruct(volume, _generator(0))  # type: ignore[operator]
    again = objective.reconstruct(volume, _generator(0))  # type: ignore[operator]
    require(seen.shape == restored.shape == volume.shape, name, "its pictures do not have the volume's shape")
    finite = bool(seen.isfinite().all()) and bool(restored.isfinite().all())
    require(finite and mask.dtype == torch.bool, name, "its pictures hold NaN or Inf, or its mask is not bool")
    same = all(torch.equal(a, b) for a, b in zip((seen, restored, mask), again, strict=True))
    require(same, name, "one seed gives two pictures")


def _check_hiding(name: str, objective: nn.Module) -> None:
    volume = sample_volume(CROP)
    masked, restored, mask = objective.reconstruct(volume, _generator(0))  # type: ignore[operator]
    hidden = expand_mask(mask, CROP)[:, None]
    kept = torch.equal(torch.where(hidden, volume, restored), volume)
    require(kept, name, "its reconstruction changes visible voxels")
    other = objective.reconstruct(torch.where(hidden, volume + 1, volume), _generator(0))  # type: ignore[operator]
    require(torch.equal(masked, other[0]), name, "its masked volume shows hidden voxels")
