"""Time training steps beside MONAI's, with the same sizes, loss and optimiser: a ViT-B MAE, and a Swin on all tokens.

    python tools/bench_step.py [--rounds 8] [--only vit|swin|peak] [--profile]

Each way is a process of its own, and the processes take turns, so that a slow spell hits all alike; ratios are those
within a round. A ViT step is forward, loss, backward and fused AdamW: 96^3 voxels, patches of 16^3, 75 % hidden, batch
2. A Swin step is forward and backward of all maps: 96^3 voxels, 48 wide, batch 1. Voxels are noise. Operations are
those of matrix products, attention and convolutions, counted by torch for the very step; what a machine can do at most
is measured by products of 2048 x 2048 matrices.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_pretrain import machine, peak_memory
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mimzoo.rehearsal import FLOPS
from mimzoo.tokens import patchify
from mimzoo.training import tune_allocator

CROP, PATCH, WARM_UP = (96, 96, 96), (16, 16, 16), 2
# What a row of the profile adds up, by the beginning of the operations' names.
PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "mkldnn"),
    "fused attention": ("aten::_scaled_dot_product", "aten::_flash"),
    "AdamW": ("aten::_fused_adamw",),
    "copies and casts": ("aten::copy_", "aten::clone", "aten::_to_copy", "aten::cat", "aten::index", "aten::gather"),
    "norms": ("aten::native_layer_norm", "aten::native_group_norm", "aten::var_mean"),
    "GELU": ("aten::gelu",),
    "softmax": ("aten::_softmax", "aten::softmax"),
}


@dataclass(frozen=True)
class Way:
    """Whose network is trained, in which precision, and whether freed memory stays in the process."""

    network: str
    owner: str
    precision: str
    tuned: bool

    def __str__(self) -> str:
        return f"{self.owner}, {self.precision}, {'tuned' if self.tuned else 'default'} allocator"


WAYS = {
    network: [
        Way(network, "MONAI", "float32", False),
        Way(network, "MONAI", "float32", True),
        Way(network, "mimzoo", "float32", False),
        Way(network, "mimzoo", "float32", True),
        Way(network, "mimzoo", "bfloat16", True),
    ]
    for network in ("vit", "swin")
}


class MonaiMae(nn.Module):
    """MONAI's masked autoencoder, with the mean squared error over the hidden voxels."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets import MaskedAutoEncoderViT

        self.inner = MaskedAutoEncoderViT(1, CROP, PATCH, mlp_dim=3072)

    def forward(self, volume: Tensor) -> Tensor:
        """Return the loss of a volume (B, 1, X, Y, Z)."""
        predicted, mask = self.inner(volume)
        errors = (predicted.float() - patchify(volume, PATCH)).square().mean(-1)
        return (errors * mask).sum() / mask.sum()


class OurMae(nn.Module):
    """mimzoo's masked autoencoder of the same sizes, with the same loss."""

    def __init__(self) -> None:
        super().__init__()
        from mimzoo_mim.args import ReconstructionArgs, TransformerArgs, UnitArgs
        from mimzoo_mim.decoder import TransformerDecoder
        from mimzoo_mim.masking import RandomMasking
        from mimzoo_mim.objective import MaskedReconstruction
        from mimzoo_vit.args import VitArgs
        from mimzoo_vit.encoder import VisionTransformer

        args = TransformerArgs(width=384, depth=4, heads=12, mlp_ratio=512 / 384)
        decoder = TransformerDecoder(args, 768, PATCH, CROP, 1)
        encoder, masking = VisionTransformer(VitArgs(), 1, CROP), RandomMasking(UnitArgs())
        self.inner = MaskedReconstruction(ReconstructionArgs(target="raw", loss="l2"), encoder, masking, decoder)
        self.steps = 0

    def forward(self, volume: Tensor) -> Tensor:
        """Return the loss of a volume (B, 1, X, Y, Z)."""
        self.steps += 1
        return self.inner(volume, torch.Generator().manual_seed(self.steps)).loss


class Maps(nn.Module):
    """A pyramid of maps, and a loss by which each of their values has another gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.weights: list[Tensor] = []

    def forward(self, volume: Tensor) -> Tensor:
        """Return the loss of a volume (B, 1, X, Y, Z)."""
        maps = self.inner(volume)
        if not self.weights:
            generator = torch.Generator().manual_seed(0)
            self.weights = [torch.randn(each.shape, generator=generator) / each.numel() for each in maps]
        return sum((each.float() * weight).sum() for each, weight in zip(maps, self.weights, strict=True))


def monai_swin() -> nn.Module:
    from monai.networks.nets.swin_unetr import SwinTransformer

    return Maps(SwinTransformer(1, 48, (7, 7, 7), (2, 2, 2), (2, 2, 2, 2), (3, 6, 12, 24)))


def our_swin() -> nn.Module:
    from mimzoo_swin.args import SwinArgs
    from mimzoo_swin.encoder import SwinTransformer

    return Maps(SwinTransformer(SwinArgs(), 1, CROP))


NETWORKS: dict[tuple[str, str], Callable[[], nn.Module]] = {
    ("vit", "MONAI"): MonaiMae,
    ("vit", "mimzoo"): OurMae,
    ("swin", "MONAI"): monai_swin,
    ("swin", "mimzoo"): our_swin,
}


def make_step(way: Way) -> Callable[[], None]:
    """Return a function that trains a network by one more step."""
    torch.manual_seed(0)
    model = NETWORKS[way.network, way.owner]().train()
    vit = way.network == "vit"
    volume = torch.rand(2 if vit else 1, 1, *CROP)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bfloat16"):
            loss = model(volume)
        loss.backward()
        if vit:
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def serve(way: Way, profiled: bool) -> None:
    """Answer each line of the standard input with the seconds of a step, and its end with what else was measured."""
    if way.tuned:
        tune_allocator()
    step = make_step(way)
    for _ in range(WARM_UP):
        step()
    # The peak is that of steps, and not of building the network.
    Path("/proc/self/clear_refs").write_text("5")
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        step()
        print(time.perf_counter() - begun, flush=True)
    answer: dict[str, Any] = {"peak": peak_memory(), "flops": count_operations(step)}
    if profiled:
        answer["parts"] = profile(step)
    print(json.dumps(answer), flush=True)


def count_operations(step: Callable[[], None]) -> int:
    """Return the operations of the products and convolutions of a step."""
    flop_registry.update(FLOPS)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def profile(step: Callable[[], None]) -> dict[str, float]:
    """Return the share of the time of a step that each of its parts takes."""
    with torch.profiler.profile() as found:
        step()
    rows = [(event.key, event.self_cpu_time_total) for event in found.key_averages()]
    whole = sum(seconds for _, seconds in rows)
    parts = {part: sum(s for key, s in rows if key.startswith(keys)) / whole for part, keys in PARTS.items()}
    return {**parts, "everything else": 1 - sum(parts.values())}


class Server:
    """A way in a process of its own."""

    def __init__(self, way: Way, profiled: bool) -> None:
        self.way = way
        words = [way.network, way.owner, way.precision, "tuned" if way.tuned else "default"]
        command = [sys.executable, __file__, "--serve", *words, *(["--profile"] if profiled else [])]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.way} ended early")
        return line

    def step(self) -> float:
        """Return the seconds of one more step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self._read())

    def end(self) -> dict[str, Any]:
        """Return what was measured beside the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        answer: dict[str, Any] = json.loads(self._read())
        self.process.wait()
        return answer


def print_ways(network: str, rounds: int, profiled: bool) -> None:
    servers = [Server(way, profiled) for way in WAYS[network]]
    taken = [[server.step() for server in servers] for _ in range(rounds)]
    answers = [server.end() for server in servers]
    print(f"\nMedian of {rounds} rounds. Ratios are those within a round, least and most in brackets.\n")
    print("| step | s | faster than MONAI | than MONAI with a tuned allocator | peak memory, GB | GFLOP/s |")
    print("|---|---|---|---|---|---|")
    for place, (way, answer) in enumerate(zip(WAYS[network], answers, strict=True)):
        seconds = statistics.median(row[place] for row in taken)
        ratios = [spread([row[base] / row[place] for row in taken]) for base in (0, 1)]
        speed = answer["flops"] / seconds / 1e9
        print(f"| {way} | {seconds:.3f} | {' | '.join(ratios)} | {answer['peak'] / 1e9:.2f} | {speed:.0f} |")
    if profiled:
        print_parts(network, answers)


def print_parts(network: str, answers: list[dict[str, Any]]) -> None:
    print("\nWhere the time of a step goes:\n")
    print(f"| step | {' | '.join(answers[0]['parts'])} |\n|---|{'---|' * len(answers[0]['parts'])}")
    for way, answer in zip(WAYS[network], answers, strict=True):
        print(f"| {way} | {' | '.join(f'{share:.0%}' for share in answer['parts'].values())} |")


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def print_peak() -> None:
    """Print how many operations a second the machine does in a product of large matrices."""
    for kind in (torch.float32, torch.bfloat16):
        one, other = (torch.randn(2048, 2048).to(kind) for _ in range(2))
        seconds = []
        for _ in range(12):
            begun = time.perf_counter()
            one @ other
            seconds.append(time.perf_counter() - begun)
        speed = 2 * 2048**3 / min(seconds) / 1e9
        print(f"Products of large matrices in {str(kind).removeprefix('torch.')}: {speed:.0f} GFLOP/s at most.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", choices=("vit", "swin", "peak"))
    parser.add_argument("--profile", action="store_true", help="also print where the time of a step goes")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if asked.serve:
        network, owner, precision, allocator = asked.serve
        return serve(Way(network, owner, precision, allocator == "tuned"), asked.profile)
    print(machine())
    print_peak()
    for network in WAYS:
        if asked.only in (None, network):
            print_ways(network, asked.rounds, asked.profile)
    return None


if __name__ == "__main__":
    main()
