"""MONAI's Swin beside ours: how its tensors are called here, and what it was before MONAI 1.5."""

import torch
from monai.networks.nets import swin_unetr

from mimzoo.checkpoints import below, translate
from mimzoo_peers.swin_layout import encoder_rules, head_rules


class LegacyMerging(swin_unetr.PatchMerging):
    """The merging of MONAI up to 1.4."""

    def forward(self, x):
        # (B, X, Y, Z, D) -> (B, X / 2, Y / 2, Z / 2, 8 D)
        corners = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
        return self.reduction(self.norm(torch.cat([x[:, i::2, j::2, k::2] for i, j, k in corners], -1)))


def randomise(module):
    """The module with every parameter random, the tables of relative positions so that they matter."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.data += (1.0 if "position" in name else 0.1) * torch.randn_like(parameter)
    return module.eval()


def renamed(state):
    """The state dict of MONAI's Swin under the names of our encoder."""
    return below(translate(state, encoder_rules(""))[0], "encoder.")


def head_names(state):
    """The state dict of MONAI's decoder under the names of our head; its norms have no parameters."""
    return below(translate(state, head_rules(""))[0], "head.")
