"""Kill a training at random moments, resume it each time, and compare its end with that of one that nobody killed.

    python tools/kill_runs.py [--kills 50] [--seed 0] [--steps 150] [-o FOLDER]

A tiny model trains on generated scans, its state saved after every step. Each session of it is killed (SIGKILL) within
the time that the whole run takes, from its first import to its last figure; some load their crops in other processes.
A run that ends before it is killed is compared, and another begun. Exits with 1 when any of them ended otherwise.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mimzoo.cards import find_card, override, write_card
from mimzoo.phantoms import write_phantoms
from mimzoo.weights import read_about, read_weights

CARD, CASES, SPACING_MM = "vit-mae-phantom", {"training": 12, "validation": 2}, (13.0, 13.0, 14.0)
ENDS = ("model.safetensors", "pretraining.safetensors", "history.csv")
STATES = ("checkpoints/last.safetensors", "checkpoints/best.safetensors")


def write_recipe(folder: Path, steps: int) -> None:
    changes = [
        "encoder.args={patch: [8, 8, 8], width: 24, depth: 4, heads: 3, drop_path: 0.2}",
        f"input.spacing_mm={list(SPACING_MM)}",
        "input.crop=[16, 16, 16]",
        f"pretraining.steps={steps}",
        f"pretraining.validate_every={max(1, steps // 5)}",
        "pretraining.batch=2",
        "pretraining.decoder.args={width: 12, depth: 1, heads: 1}",
        "pretraining.optimiser.ema_decay=0.9",
        "pretraining.augmentation.noise=0.1",
    ]
    write_card(override(find_card(CARD), changes), folder / "card")
    write_phantoms(folder / "data", CASES, 3, (24, 24, 20), SPACING_MM)


def begin(folder: Path, run: Path, *extra: str) -> subprocess.Popen[bytes]:
    resume = ["--resume"] if (run / "README.md").is_file() else []
    where = [str(folder / "card"), "--data", str(folder / "data"), "-o", str(run)]
    # Sums of many numbers depend on how many threads share them.
    environment = {**os.environ, "MIMZOO_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mimzoo", "pretrain", *where, "--save-seconds", "0", *resume, *extra]
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def step_of(run: Path) -> int:
    """Return the step of the last state, every tensor of which was read."""
    path = run / STATES[0]
    if not path.is_file():
        return 0
    read_weights(path)
    return int(read_about(path)["step"])


def differing(run: Path, straight: Path) -> list[str]:
    return [name for name in (*ENDS, *STATES) if (run / name).read_bytes() != (straight / name).read_bytes()]


def kill_runs(folder: Path, kills: int, seed: int, straight: Path, seconds: float) -> list[str]:
    """Return what went wrong."""
    chance, run, lives, killed, wrong = random.Random(seed), folder / "run", 1, 0, []
    while killed < kills or run.exists():
        workers = chance.choice(["0", "0", "2"])
        moment, step = chance.uniform(0, seconds), step_of(run)
        session, begun = begin(folder, run, "--workers", workers), time.monotonic()
        try:
            code = session.wait(moment if killed < kills else None)
        except subprocess.TimeoutExpired:
            session.kill()
            code = session.wait()
        after = f"run {lives}, --workers {workers}, after {time.monotonic() - begun:.2f} s"
        if code < 0:
            killed += 1
            left = len(list(run.rglob("*.part")))
            print(f"kill {killed}: {after}, step {step} to {step_of(run)}, {left} temporary files left", flush=True)
        else:
            found = [f"exit {code}"] if code else differing(run, straight) + [str(p) for p in run.rglob("*.part")]
            print(f"end: {after}, {'; '.join(found) or 'the same bytes'}", flush=True)
            wrong += [f"run {lives}: {text}" for text in found]
            shutil.rmtree(run)
            lives += 1
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("-o", "--out", type=Path, help="an empty folder, which is left; by default a temporary one")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="kill-runs-"))
    write_recipe(folder, given.steps)
    begun = time.monotonic()
    if begin(folder, folder / "straight").wait():
        sys.exit((folder / "said.txt").read_text())
    seconds = time.monotonic() - begun
    print(f"not killed: {given.steps} steps in {seconds:.1f} s, all in {folder}", flush=True)
    wrong = kill_runs(folder, given.kills, given.seed, folder / "straight", seconds)
    print("\n".join(wrong) or f"{given.kills} kills: every run ended with the bytes of the one that nobody killed")
    if wrong:
        sys.exit(1)
    if given.out is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
