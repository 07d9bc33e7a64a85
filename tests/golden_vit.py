"""Plain ViTs of other projects, imported: their own classes beside ours, with the same random weights."""

import re
from functools import partial

import peers  # noqa: F401 - before timm
import torch
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, ViT, ViTAutoEnc
from peers import Golden
from timm.models.vision_transformer import Block
from torch import nn

import mimzoo
from mimzoo.importing import import_checkpoint

SIZE = (32, 16, 24)
SMALL = {"hidden_size": 36, "mlp_dim": 80, "num_layers": 5, "num_heads": 3}
SMALL_OPTIONS = {"heads": 3, "crop": list(SIZE)}


def randomise(module, seed=0):
    """The module with every parameter moved, each by what it bears, so that biases, norms and positions matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        inputs = 1 if parameter.dim() == 1 or "pos" in name or "token" in name else parameter[0].numel()
        parameter.data += 0.3 * inputs**-0.5 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def volume(channels, size=SIZE):
    """Two CT-like crops: a noisy body with a dense core far above it, in air that is exactly 0."""
    found = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))
    found[:, :, : size[0] // 3] = 0
    found[:, :, -4:, -4:, -4:] = 6
    return found


def imported(format, content, folder, options=None):
    """What `mimzoo.load` gives of a file with this content, after its import."""
    file = folder / "checkpoint.pt"
    torch.save(content, file)
    name = name_of(folder)
    import_checkpoint(format, file, name, options)
    return mimzoo.load(name)


def name_of(folder):
    """What a model is called whose checkpoint lies in a folder."""
    return "golden-" + "-".join(re.findall("[a-z0-9]+", folder.name.lower()))


def compare(theirs, ours, compared):
    """The golden of activations beside each other."""
    pairs = list(zip(theirs, ours, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    return Golden(difference, max(float(a.abs().max()) for a, _ in pairs), compared)


def flat(maps):
    """Maps (B, D, GX, GY, GZ) as tokens (B, N, D)."""
    return [found.flatten(2).transpose(1, 2) for found in maps]


@torch.no_grad()
def compare_vit(theirs, ours, crops):
    """MONAI's ViT beside our encoder: its hidden states where ours takes its maps, and its normed end."""
    hidden = theirs(crops)[1]
    return compare_states(hidden, theirs.norm(hidden[-1]), ours, crops, leading=int(hasattr(theirs, "cls_token")))


def compare_states(hidden, normed, ours, crops, leading):
    """The states after each block and the normed end beside our maps, without leading tokens."""
    wanted = [*(hidden[tap - 1] for tap in ours.taps[:-1]), normed]
    return compare([each[:, leading:] for each in wanted], flat(ours(crops)), "all maps")


def stale(state):
    """A state as MONAI 1.5 wrote it: with cross-attention in every block."""
    dead = {}
    for name, tensor in state.items():
        if name.endswith("attn.out_proj.weight"):
            block, width = name.removesuffix("attn.out_proj.weight"), len(tensor)
            dead |= {f"{block}cross_attn.{part}.weight": torch.randn(width, width) for part in ("to_q", "out_proj")}
            dead[f"{block}cross_attn.out_proj.bias"] = torch.randn(width)
    return {**state, **dead}


def old(state):
    """A state as MONAI wrote it before it had cross-attention: with a class token beside the patches, never used."""
    kept = {name: tensor for name, tensor in state.items() if "cross_attn" not in name}
    position = next(name for name in kept if name.endswith("position_embeddings"))
    token = torch.randn(1, 1, kept[position].shape[2])
    return {**kept, position.replace("position_embeddings", "cls_token"): token}


def vit(**args):
    given = {"in_channels": 2, "img_size": SIZE, "patch_size": (8, 8, 4), "proj_type": "conv", **SMALL, **args}
    return randomise(ViT(**given))


def vit_conv(folder):
    theirs = vit(qkv_bias=True)
    ours = imported("monai-vit", {"state_dict": stale(theirs.state_dict())}, folder, SMALL_OPTIONS)
    return compare_vit(theirs, ours, volume(2))


def vit_perceptron(folder):
    theirs = vit(proj_type="perceptron")
    ours = imported("monai-vit", old(theirs.state_dict()), folder, {**SMALL_OPTIONS, "patch": [8, 8, 4]})
    return compare_vit(theirs, ours, volume(2))


def vit_alone(folder):
    """All that a file of cubes of one channel and heads of 64 tells by itself."""
    theirs = vit(
        in_channels=1, img_size=(16, 16, 16), patch_size=8, proj_type="perceptron", pos_embed_type="sincos",
        hidden_size=192, num_layers=4,
    )  # fmt: skip
    return compare_vit(theirs, imported("monai-vit", theirs.state_dict(), folder), volume(1, (16, 16, 16)))


def vit_class_token(folder):
    theirs = vit(classification=True, num_classes=3)
    return compare_vit(theirs, imported("monai-vit", theirs.state_dict(), folder, SMALL_OPTIONS), volume(2))


def vit_autoencoder(folder):
    theirs = randomise(ViTAutoEnc(in_channels=1, img_size=(32, 16, 48), patch_size=(16, 16, 16), **SMALL))
    options = {"heads": 3, "crop": [32, 16, 48]}
    content = {"epoch": 3, "state_dict": theirs.state_dict(), "optimizer": {"state": {}}}
    return compare_vit(theirs, imported("monai-vit", content, folder, options), volume(1, (32, 16, 48)))


def unetr(**args):
    given = {
        "in_channels": 2, "out_channels": 14, "img_size": (48, 16, 32), "feature_size": 4, "hidden_size": 24,
        "mlp_dim": 48, "num_heads": 3, **args,
    }  # fmt: skip
    return randomise(UNETR(**given))


@torch.no_grad()
def compare_unetr(theirs, ours):
    """MONAI's UNETR beside our segmenter: the maps and the logits."""
    crops = volume(theirs.encoder1.layer.conv1.conv.in_channels, (48, 16, 32))
    normed, hidden = theirs.vit(crops)
    wanted = [*(hidden[number] for number in (3, 6, 9)), normed, theirs(crops)]
    return compare(wanted, [*flat(ours.features(crops)), ours(crops)], "all maps and the logits")


def segmenter(folder, content, **options):
    return imported("monai-unetr", content, folder, {"heads": 3, "crop": [48, 16, 32], **options})


def unetr_conv(folder):
    theirs = unetr(qkv_bias=True)
    return compare_unetr(theirs, segmenter(folder, {"state_dict": stale(theirs.state_dict())}))


def unetr_perceptron(folder):
    theirs = unetr(proj_type="perceptron", in_channels=1)
    return compare_unetr(theirs, segmenter(folder, old(theirs.state_dict()), labels="btcv"))


def unetr_plain_blocks(folder):
    theirs = unetr(res_block=False)
    return compare_unetr(theirs, segmenter(folder, theirs.state_dict()))


def unetr_plain_skips(folder):
    # As many input channels as features: then the first block has no third convolution.
    theirs = unetr(conv_block=False, in_channels=4)
    return compare_unetr(theirs, segmenter(folder, theirs.state_dict()))


@torch.no_grad()
def mae(folder):
    theirs = randomise(
        MaskedAutoEncoderViT(
            in_channels=2, img_size=SIZE, patch_size=(8, 8, 4), decoder_hidden_size=24, decoder_mlp_dim=32,
            decoder_num_layers=1, decoder_num_heads=3, qkv_bias=True, **SMALL,
        )
    )  # fmt: skip
    ours = imported("monai-mae", stale(theirs.state_dict()), folder, SMALL_OPTIONS)
    crops, wanted, given = volume(2), [], []
    # With nothing hidden and with half of the patches; they keep patches in the order in which they were drawn.
    for ratio in (0.0, 0.5):
        torch.manual_seed(3)
        embedded = theirs.patch_embedding(crops)
        kept, chosen, hidden = theirs._masking(embedded, ratio)
        encoded = theirs.blocks(torch.cat([theirs.cls_token.expand(2, -1, -1), kept], 1))[:, 1:]
        order = chosen.argsort(1)
        wanted.append(encoded.gather(1, order[:, :, None].expand_as(encoded)))
        # (2, N) -> (2, GX, GY, GZ)
        given.append(ours.encode(crops, hidden.bool().reshape(2, *ours.grid)).values)
    return compare([*wanted, wanted[0]], [*given, flat(ours(crops))[-1]], "the tokens of all patches and of half")


class MimMed3d(nn.Module):
    """MIM-Med3D's masked autoencoder, or its SimMIM, by the names of its tensors."""

    def __init__(self, autoencoder):
        super().__init__()
        self.encoder = ViT(1, (48, 32, 16), 16, proj_type="perceptron", **SMALL)
        self.patch_to_emb = self.encoder.patch_embedding.patch_embeddings[1]
        width = 24 if autoencoder else 36
        self.mask_token = nn.Parameter(torch.randn(width))
        if autoencoder:
            self.enc_to_dec = nn.Linear(36, width)
            self.decoder_blocks = ViT(1, 16, 16, width, 96, 2, 2).blocks
            self.decoder_norm = nn.LayerNorm(width)
            self.decoder_pos_emb = nn.Embedding(6, width)
        self.to_pixels = nn.Linear(width, 4096)

    def checkpoint(self):
        """What Lightning saves of it."""
        state = {name: tensor for name, tensor in self.state_dict().items() if "cross_attn" not in name}
        return {"epoch": 3, "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}

    def embed(self, crops):
        """Tokens with their positions, before the first block."""
        return self.encoder.patch_embedding(crops)

    def encode(self, tokens):
        """Tokens after the last block, which only our encoder norms."""
        for block in self.encoder.blocks:
            tokens = block(tokens)
        return self.encoder.norm(tokens)


MIM_OPTIONS = {"heads": 3, "crop": [48, 32, 16]}
# One half of the patches of each of two samples
HALF = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1]], dtype=torch.bool).reshape(2, 3, 2, 1)


@torch.no_grad()
def mim_med3d_mae(folder):
    theirs, crops = randomise(MimMed3d(True)), volume(1, (48, 32, 16))
    ours = imported("mim-med3d-mae", theirs.checkpoint(), folder, MIM_OPTIONS)
    visible = theirs.embed(crops)[~HALF.flatten(1)].reshape(2, 3, -1)
    maps = compare_vit(theirs.encoder, ours, crops)
    tokens = compare([theirs.encode(visible)], [ours.encode(crops, HALF).values], "")
    return both(maps, tokens, "all maps, and the tokens of half of the patches")


@torch.no_grad()
def mim_med3d_simmim(folder):
    theirs, crops = randomise(MimMed3d(False)), volume(1, (48, 32, 16))
    ours = imported("mim-med3d-simmim", theirs.checkpoint(), folder, MIM_OPTIONS)
    replaced = theirs.mask_token + theirs.encoder.patch_embedding.position_embeddings
    tokens = torch.where(HALF.flatten(1)[:, :, None], replaced, theirs.embed(crops))
    maps = compare_vit(theirs.encoder, ours, crops)
    encoded = compare([theirs.encode(tokens)], [ours.encode(crops, HALF, theirs.mask_token).values], "")
    return both(maps, encoded, "all maps, and the tokens with half of the patches replaced")


def both(one, other, compared):
    return Golden(max(one.difference, other.difference), max(one.largest, other.largest), compared)


class TimmBlocks(nn.Module):
    """The blocks of SelfMedMAE, which are timm's, with their norm."""

    def __init__(self, width, depth, heads):
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width)


class SelfMedMae(nn.Module):
    """SelfMedMAE's masked autoencoder by the names of its tensors."""

    def __init__(self, channels, patches):
        super().__init__()
        self.encoder_pos_embed = nn.Parameter(torch.zeros(1, patches, 36))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, patches, 24))
        self.encoder, self.decoder = TimmBlocks(36, 5, 3), TimmBlocks(24, 1, 3)
        self.encoder.cls_token = nn.Parameter(torch.zeros(1, 1, 36))
        self.encoder.patch_embed = nn.Module()
        self.encoder.patch_embed.proj = nn.Conv3d(channels, 36, 8, 8)
        self.decoder.head = nn.Linear(24, channels * 512)
        self.encoder_to_decoder = nn.Linear(36, 24)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 24))

    def forward(self, crops):
        """The states after each block, and the normed end; the class token comes first and has no position."""
        embedded = self.encoder.patch_embed.proj(crops).flatten(2).transpose(1, 2) + self.encoder_pos_embed
        x = torch.cat([self.encoder.cls_token.expand(len(crops), -1, -1), embedded], 1)
        hidden = [x := block(x) for block in self.encoder.blocks]
        return hidden, self.encoder.norm(x)


@torch.no_grad()
def selfmedmae(folder):
    theirs, crops = randomise(SelfMedMae(4, 24)), volume(4)
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    content = {"epoch": 3, "arch": "vit_base", "state_dict": state, "optimizer": {}, "scaler": {}}
    ours = imported("selfmedmae", content, folder, SMALL_OPTIONS)
    return compare_states(*theirs(crops), ours, crops, leading=1)


def seeded(golden):
    """A golden whose models are the same at every call."""

    def run(folder):
        torch.manual_seed(0)
        return golden(folder)

    return run


GOLDENS = {
    name: seeded(golden)
    for name, golden in {
        "monai-vit (convolution)": vit_conv,
        "monai-vit (perceptron)": vit_perceptron,
        "monai-vit (no options)": vit_alone,
        "monai-vit (class token)": vit_class_token,
        "monai-vit (autoencoder)": vit_autoencoder,
        "monai-unetr (convolution)": unetr_conv,
        "monai-unetr (perceptron)": unetr_perceptron,
        "monai-unetr (plain blocks)": unetr_plain_blocks,
        "monai-unetr (plain skips)": unetr_plain_skips,
        "monai-mae": mae,
        "mim-med3d-mae": mim_med3d_mae,
        "mim-med3d-simmim": mim_med3d_simmim,
        "selfmedmae": selfmedmae,
    }.items()
}
