"""SimCLR on crops: two views of one crop are to be more alike than views of different ones."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.processes import count, rank
from mimzoo.tokens import Encoder, Loss
from mimzoo_ssl.args import SimClrArgs
from mimzoo_ssl.views import make_view


class SimClr(nn.Module):
    """SimCLR (Chen et al. 2020, arXiv 2002.05709), the contrastive baseline of Chen et al. 2022 (arXiv 2204.11716)."""

    def __init__(self, args: SimClrArgs, encoder: Encoder, masking: None, decoder: None) -> None:
        super().__init__()
        self.args, self.encoder = args, encoder
        width = encoder.channels[-1]
        # LayerNorm where SimCLR has BatchNorm: batches of 3D crops are small and split over devices.
        self.project = nn.Sequential(
            nn.Linear(width, args.hidden), nn.LayerNorm(args.hidden), nn.ReLU(), nn.Linear(args.hidden, args.width)
        )

    def forward(self, volume: Tensor, generator: torch.Generator) -> Loss:
        """Return the loss of telling the views of a volume (B, C, X, Y, Z) apart; the generator decides the views.

        While training, crops are compared with those of all processes; in evaluation with each other alone.
        Raises ShapeError when there is but one crop to compare.
        """
        first, second = (self.embed(make_view(volume, generator, self.args)) for _ in range(2))
        return Loss(nt_xent(first, second, self.args.temperature, everyone=self.training))

    def embed(self, volume: Tensor) -> Tensor:
        """Return the projections (B, width) of a volume (B, C, X, Y, Z), of length one, in float32."""
        # (B, D, GX, GY, GZ) -> (B, D)
        pooled = self.encoder(volume)[-1].mean(dim=(2, 3, 4))
        return functional.normalize(self.project(pooled).float(), dim=1)


def nt_xent(first: Tensor, second: Tensor, temperature: float, everyone: bool = True) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of two views (B, D) each, of length one: a scalar.

    Equation 1 of SimCLR. With `everyone`, each view of each process is compared with all others; a process takes the
    mean over its own views, so that the mean over processes is that over the whole batch.
    Raises ShapeError when there are no other crops to compare with.
    """
    own = torch.cat([first, second])
    views = torch.cat(gather_views(own)) if everyone else own
    if len(views) < 4:
        raise ShapeError("simclr compares the crops of a batch and needs at least two; raise pretraining.batch")
    batch = len(first)
    begin = 2 * batch * rank() if everyone else 0
    index = torch.arange(2 * batch, device=own.device)
    logits = own @ views.T / temperature
    # No view is compared with itself.
    logits = logits.index_put((index, begin + index), logits.new_tensor(-torch.inf))
    # The partner of view i of a process is its other half, i + B or i - B.
    return functional.cross_entropy(logits, begin + (index + batch) % (2 * batch))


def gather_views(views: Tensor) -> list[Tensor]:
    """Return the views (B, D) of every process, in their order; gradients reach all of them."""
    return list(all_gather(views)) if count() > 1 else [views]  # type: ignore[no-untyped-call]
