"""Models Genesis: restore a crop that was corrupted."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.tokens import Encoder, Loss, Size, Tokens, divide, patchify, unpatchify
from mimzoo_ssl.args import GenesisArgs
from mimzoo_ssl.corruption import corrupt

LOSSES = {"l1": functional.l1_loss, "l2": functional.mse_loss}


class ModelsGenesis(nn.Module):
    """Models Genesis (Zhou et al. 2021, arXiv 2004.07882): the encoder sees all of a corrupted crop."""

    def __init__(self, args: GenesisArgs, encoder: Encoder, masking: None, decoder: nn.Module) -> None:
        super().__init__()
        self.args, self.encoder, self.decoder = args, encoder, decoder
        self.loss = LOSSES[args.loss]

    def forward(self, volume: Tensor, generator: torch.Generator) -> Loss:
        """Return the loss of restoring a volume (B, C, X, Y, Z), over all voxels.

        The generator decides the corruptions. In evaluation the loss comes with its baseline.
        """
        tokens, predicted, _ = self._restore(volume, generator)
        wanted = patchify(volume.float(), tokens.patch)
        loss = self.loss(predicted.float(), wanted)
        if self.training:
            return Loss(loss)
        # (B, N, C voxels) -> (B, N, C, voxels)
        units = wanted.reshape(*wanted.shape[:2], volume.shape[1], -1)
        return Loss(loss, baseline=self.loss(units.mean(3, keepdim=True).expand_as(units), units))

    @torch.no_grad()
    def reconstruct(self, volume: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the corrupted volume and the restored one, (B, C, X, Y, Z) float32, and a mask that hides nothing."""
        tokens, predicted, corrupted = self._restore(volume, generator)
        restored = unpatchify(predicted.float(), tokens.patch, tuple(volume.shape[2:]))
        return corrupted, restored, torch.zeros_like(tokens.mask)

    def _restore(self, volume: Tensor, generator: torch.Generator) -> tuple[Tokens, Tensor, Tensor]:
        corrupted = corrupt(volume.float(), generator, self.args)
        size: Size = (volume.shape[2], volume.shape[3], volume.shape[4])
        units = divide(size, self.encoder.mask_unit, "the crop", "the unit of the encoder")
        nothing = torch.zeros(volume.shape[0], *units, dtype=torch.bool)
        seen = self.encoder.encode(corrupted, nothing, corrupted.new_zeros(self.encoder.mask_width))
        # Decoders predict hidden tokens: here all are asked for.
        asked = Tokens(seen.values, torch.ones_like(seen.mask), seen.patch, dropped=False)
        return asked, self.decoder(asked), corrupted
