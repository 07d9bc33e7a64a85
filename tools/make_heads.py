"""Fine-tune and deploy every head on every family of encoders, and write the tables of `docs/heads.md`.

    python tools/make_heads.py [--check]

Each pair takes one step on generated CT-like phantoms, is exported, and is run by ONNX Runtime. With --check nothing
is written, and it fails when a table on the page is another.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from make_docs import generate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mimzoo.errors import ShapeError
from mimzoo.graphs import graph_of
from mimzoo.models import build_encoder, build_head
from mimzoo.phantoms import make_phantom
from mimzoo.recipes import Component, ZScore
from mimzoo.registry import registry
from mimzoo.testing.headgrid import head_table, try_heads
from mimzoo.volume import normalise

PAGE = Path(__file__).parents[1] / "docs" / "heads.md"
SIZE = (64, 64, 64)
COSTED, CROP = ("vit-small", "swin-small", "resenc-small"), (96, 96, 96)
# Sizes of one architecture differ in nothing that matters here, so each is built shallow and narrow, and so are heads.
NARROW = {"width": 8}
SHALLOW = {
    "vit-*": {"width": 48, "depth": 4, "heads": 2},
    "primus-*": {"width": 48, "depth": 4, "heads": 2},
    "swin-*": {"width": 12, "depths": [1, 1, 1], "heads": [3, 6, 12]},
    "van-*": {"widths": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "resenc-*": {"features": [8, 16, 32, 64, 80], "blocks": [1, 1, 1, 1, 1]},
    "unetr": NARROW,
    "unetr-concat": NARROW,
    "upernet": NARROW,
    "convolution": NARROW,
}


def deploy(model: nn.Module, volume: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """Return the logits of ONNX Runtime as a function of volumes, of which only the number is free."""
    content = graph_of(model, volume).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda volumes: [torch.from_numpy(found) for found in session.run(None, {name: volumes.numpy()})]


def read_phantoms() -> Tensor:
    """Return two CT-like scans (2, 1, *SIZE), normalised; the air around the body stays constant."""
    scans = [make_phantom(seed, SIZE)[0] for seed in (0, 1)]
    return torch.stack([torch.from_numpy(normalise(scan.voxels, ZScore(mode="zscore"))) for scan in scans])


def grid_table() -> str:
    return head_table(try_heads(read_phantoms(), deploy, SHALLOW))


def cost_table() -> str:
    rows = ["| head | " + " | ".join(f"`{name}`" for name in COSTED) + " |", "|---" * (1 + len(COSTED)) + "|"]
    heads = [offer.name for offer in registry().of_kind("head")]
    rows += [f"| `{head}` | {' | '.join(cost(name, head) for name in COSTED)} |" for head in heads]
    return "\n".join(rows)


def cost(encoder: str, head: str) -> str:
    """Return the parameters of a head on an encoder, and its multiply-adds for one crop, counted without computing."""
    built = build_encoder(Component(name=encoder), 1, CROP)
    try:
        module = build_head(Component(name=head), built, 1, 3).to("meta")
    except ShapeError:
        return ""
    grids = [[n // s for n, s in zip(CROP, stride, strict=True)] for stride in built.strides]
    maps = [torch.empty(1, c, *grid, device="meta") for c, grid in zip(built.channels, grids, strict=True)]
    with FlopCounterMode(display=False) as counter:
        module(maps, torch.empty(1, 1, *CROP, device="meta"))
    thousands = sum(parameter.numel() for parameter in module.parameters()) / 1e3
    # Two operations are one multiply-add.
    return f"{thousands:,.0f} k, {counter.get_total_flops() / 2e9:.2f} G"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    fresh = generate(PAGE, {"costs": cost_table, "heads": grid_table})
    if asked.check and fresh != PAGE.read_text():
        raise SystemExit(f"{PAGE.name} is out of date: run python tools/make_heads.py\n\n{fresh}")
    if not asked.check:
        PAGE.write_text(fresh)
    print(f"{PAGE.name} {'is up to date' if asked.check else 'written'}")


if __name__ == "__main__":
    main()
