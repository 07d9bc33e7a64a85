"""Masked image modelling: hide units of a crop, predict their voxels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tokens import Encoder, Loss, Size, Tokens, gather_tokens, hidden_index, patchify, spread_mask, unpatchify
from mimzoo_mim.args import ReconstructionArgs

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": functional.l1_loss, "l2": functional.mse_loss}
Masking = Callable[[Tensor, torch.Generator, Size], Tensor]


class MaskedReconstruction(nn.Module):
    """MAE (arXiv 2111.06377) when hidden units are dropped, SimMIM (arXiv 2111.09886) when they are replaced."""

    encoder: Encoder
    mask_token: nn.Parameter | None

    def __init__(self, args: ReconstructionArgs, encoder: Encoder, masking: Masking, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.masking, self.decoder = encoder, masking, decoder
        self.normalised = args.target == "normalised"
        self.loss = LOSSES[args.loss]
        token = nn.Parameter(torch.empty(encoder.mask_width).normal_(std=0.02)) if args.mode == "replace" else None
        self.register_parameter("mask_token", token)

    def forward(self, volume: Tensor, generator: torch.Generator) -> Loss:
        """Return the loss over the hidden voxels of a volume (B, C, X, Y, Z); the generator decides the mask.

        In evaluation the loss comes with its baseline.
        Raises ShapeError when crop, mask unit and encoder do not fit together.
        """
        mask, tokens, predicted = self._predict(volume, generator)
        mean, deviation = unit_statistics(volume.float(), mask)
        target = (volume.float() - mean) / deviation if self.normalised else volume.float()
        wanted = _hidden_patches(target, tokens)
        loss = self.loss(predicted.float(), wanted)
        if self.training:
            return Loss(loss)
        guess = torch.zeros_like(wanted) if self.normalised else _hidden_patches(mean, tokens)
        return Loss(loss, baseline=self.loss(guess, wanted))

    @torch.no_grad()
    def reconstruct(self, volume: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masked volume, the reconstructed one, both (B, C, X, Y, Z) float32, and the mask (B, *units).

        Hidden voxels are 0 in the first; in the second they are predicted, and where the target was normalised, scaled
        back by their unit's true mean and deviation, as in the pictures of MAE. Visible voxels are kept in both.
        """
        mask, tokens, predicted = self._predict(volume, generator)
        volume = volume.float()
        restored = paint(volume, tokens, predicted.float())
        if self.normalised:
            mean, deviation = unit_statistics(volume, mask)
            restored = restored * deviation + mean
        hidden = spread_mask(mask, tuple(volume.shape[2:]), volume)
        return volume.masked_fill(hidden, 0), torch.where(hidden, restored, volume), mask

    def _predict(self, volume: Tensor, generator: torch.Generator) -> tuple[Tensor, Tokens, Tensor]:
        mask = self.masking(volume, generator, self.encoder.mask_unit)
        tokens = self.encoder.encode(volume, mask, self.mask_token)
        return mask, tokens, self.decoder(tokens)


def unit_statistics(volume: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each channel in its unit of `mask`, both spread out as (B, C, X, Y, Z)."""
    size = tuple(volume.shape[2:])
    unit = (size[0] // mask.shape[1], size[1] // mask.shape[2], size[2] // mask.shape[3])
    # (B, C, X, Y, Z) -> (B, units, C, voxels)
    patches = patchify(volume, unit)
    units = patches.reshape(*patches.shape[:2], volume.shape[1], -1)
    variance, mean = torch.var_mean(units, dim=3, keepdim=True)
    parts = (mean.expand_as(units), (variance + 1e-6).sqrt().expand_as(units))
    means, deviations = (unpatchify(part.flatten(2), unit, size) for part in parts)
    return means, deviations


def paint(volume: Tensor, tokens: Tokens, predicted: Tensor) -> Tensor:
    """Return a volume like `volume` that holds the predicted voxels of the hidden tokens, and 0 elsewhere."""
    index = hidden_index(tokens.mask).to(volume.device)[:, :, None].expand_as(predicted)
    patches = torch.zeros_like(patchify(volume, tokens.patch)).scatter(1, index, predicted)
    return unpatchify(patches, tokens.patch, tuple(volume.shape[2:]))


def _hidden_patches(volume: Tensor, tokens: Tokens) -> Tensor:
    return gather_tokens(patchify(volume, tokens.patch), hidden_index(tokens.mask))
