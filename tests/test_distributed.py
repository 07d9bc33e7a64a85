"""Training spread over processes: one result however many there are, told once, stopped together, resumed by any."""

import csv
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import tiny
from generated import write_ventricles
from torch.distributed.fsdp import FSDPModule

from mimzoo import finetune, pretrain, training
from mimzoo.cards import find_card, mimzoo_home, override, write_card
from mimzoo.cli import main
from mimzoo.data.layouts import convert
from mimzoo.draws import Share
from mimzoo.errors import DataError, MimzooError
from mimzoo.models import load
from mimzoo.phantoms import write_phantoms
from mimzoo.processes import company, count, rank, share_out
from mimzoo.progress import Shown
from mimzoo.protocols import training_dataset
from mimzoo.registry import find, registry
from mimzoo.weights import read_about, read_weights
from mimzoo_ssl.args import GenesisArgs, SimClrArgs
from mimzoo_ssl.corruption import corrupt
from mimzoo_ssl.views import make_view

# A low rate, for AdamW moves what has no gradient (the biases of keys, and those before a norm) by rounding errors.
SHORT = ["steps=3", "validate_every=2", "batch=8", "precision=float32", "optimiser.lr=1.0e-4"]
PRETRAINING = {
    "mae": [],
    "in-parts": [
        "pretraining.accumulate=2",
        "pretraining.masking={name: foreground, args: {unit: [8, 8, 8]}}",
        "pretraining.optimiser.ema_decay=0.5",
        "pretraining.optimiser.clip_norm=0.05",
    ],
    "simclr": [
        "pretraining.objective={name: simclr, args: {hidden: 16, width: 8}}",
        "pretraining.masking=null",
        "pretraining.decoder=null",
    ],
    "genesis": [
        "pretraining.objective={name: models-genesis}",
        "pretraining.masking=null",
        "pretraining.decoder={name: linear}",
    ],
    "shaken": ["pretraining.steps=6", "pretraining.batch=4", "encoder.args.drop_path=0.4"],
    "recomputed": ["pretraining.checkpointing=true"],
}
BRAINS = [
    "encoder={name: vit-tiny, args: {patch: [8, 7, 8], width: 24, depth: 4, heads: 2}}",
    "input.spacing_mm=[1.0, 1.0, 1.0]",
    "input.crop=[24, 28, 24]",
    "finetuning.start=null",
    "finetuning.accumulate=1",
]
FINETUNING = {"masks": [], "classes": BRAINS, "value": [*BRAINS, "target={column: age, unit: years}"]}
ALIKE = [*(name for name in PRETRAINING if name not in ("shaken", "recomputed")), *FINETUNING]


def card_of(name, *assignments):
    """The card of a training by its name above."""
    recipe = "pretraining" if name in PRETRAINING else "finetuning"
    short = [f"{recipe}.{assignment}" for assignment in SHORT]
    if name in PRETRAINING:
        return override(tiny(recipe, "vit-mae-phantom"), [*short, *PRETRAINING[name], *assignments])
    card = tiny(recipe, "vit-mae-phantom-seg") if name == "masks" else find_card("vit-mae-adni-cls")
    return override(card, [*FINETUNING[name], *short, *assignments])


def data_of(name, folder):
    return folder / ("brains" if name in ("classes", "value") else "phantoms")


def train(name, folder, run, *assignments, resume=False, stop=None):
    """The state after training into the folder `run`, without pictures; `stop` is (step, process to get the signal)."""
    module, begin = (pretrain, pretrain.pretrain) if name in PRETRAINING else (finetune, finetune.finetune)
    advance, make_state, states = Shown.advance, training.make_state, []

    def advance_and_stop(shown, step, *values):
        advance(shown, step, *values)
        if (step, rank()) == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    def keep_state(*parts):
        states.append(make_state(*parts))
        return states[-1]

    with ExitStack() as patches:
        patches.enter_context(patch.object(module, "finish"))
        patches.enter_context(patch.object(pretrain, "stages", lambda *parts: None))
        patches.enter_context(patch.object(Shown, "advance", advance_and_stop))
        patches.enter_context(patch.object(training, "make_state", keep_state))
        with suppress(training.InterruptedRun, SystemExit) if stop else ExitStack():
            begin(card_of(name, *assignments), data_of(name, folder), run, resume=resume)
    return states[-1][1]


def judge(name, folder):
    """The figures of a fresh model on the validation cases, and which of these this process looked at."""
    card, asked, answer_cases = card_of(name), [], finetune.answer_cases
    dataset = training_dataset(card, data_of(name, folder))

    def answer(answering, cases, *parts):
        asked.extend(case.id for case in cases)
        return answer_cases(answering, cases, *parts)

    with patch.object(finetune, "answer_cases", answer), torch.inference_mode():
        return finetune.validation(card, dataset)(finetune.make_model(card, dataset).eval()), asked


# --- what each of several processes does ------------------------------------------------------------------------------


def work(folder):
    """Everything that two processes are to do together, so that they need to be started only once."""
    training.join()
    found, two = {}, folder / "two"
    with patch.object(finetune, "prepare_cases", lambda *parts: prepare(found, *parts)):
        for name in (*PRETRAINING, *FINETUNING):
            found[name] = digest(train(name, folder, two / name))
    train("shaken", folder, two / "stopped", stop=(3, 1))
    found["stopped"] = digest(train("shaken", folder, two / "stopped", resume=True))
    train("mae", folder, folder / "from-two", stop=(1, 0))
    train("mae", folder, folder / "from-one", resume=True)
    found["judged"] = {name: judge(name, folder) for name in FINETUNING}
    found["shared out"] = share_out(range(7), lambda own: [(n, rank()) for n in own])
    found["begun again"] = ended(lambda: train("mae", folder, two / "mae"))
    mean_loss = training.mean_loss
    with patch.object(training, "mean_loss", lambda own, *parts: mean_loss(math.nan if rank() else own, *parts)):
        found["no number"] = ended(lambda: train("mae", folder, two / "no-number"))
    words = ["mimzoo", "pretrain", folder / "card", "--data", folder, "-o", folder / "other"]
    with patch.object(sys, "argv", [*map(str, words), "--set", "pretraining.batch=3"]):
        found["refused"] = ended(main)
    (folder / f"{rank()}-of-{count()}.json").write_text(json.dumps(found))


def digest(state):
    """What a process ends with: weights, averages, moments, rates, step and what was best."""
    tensors = {key: value for key, value in sorted(state.tensors().items()) if not key.startswith("random")}
    found = hashlib.sha256(b"".join(key.encode() + value.numpy().tobytes() for key, value in tensors.items()))
    rates = [group["lr"] for group in state.optimiser.param_groups]
    return [found.hexdigest(), rates, state.step, state.best, state.best_step, state.recent_losses]


def prepare(found, card, dataset, progress, prepare_cases=finetune.prepare_cases):
    """The prepared cases; how many there are in all stores before and after is noted in what was `found`."""
    stores = mimzoo_home() / "prepared"
    before = len(list(stores.rglob("*.json")))
    prepared = prepare_cases(card, dataset, progress)
    found.setdefault("prepared", []).append((before, len(list(stores.rglob("*.json")))))
    return prepared


def ended(training):
    """How a training that cannot go on ends here: in a sentence, or in silence."""
    try:
        training()
    except DataError as error:
        return str(error)
    except SystemExit as silent:
        return silent.code


def work_sharded(folder):
    """What two processes do of which each has a part of the weights."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    # Accelerate shards weights on accelerators alone; told that there is one, it does so on the CPU as well.
    with patch.object(PartialState, "_prepare_backend", lambda *parts: ("gloo", DistributedType.MULTI_GPU)):
        PartialState()
    train("recomputed", folder, folder / "sharded" / "recomputed", stop=(1, 1))
    state = train("recomputed", folder, folder / "sharded" / "recomputed", resume=True)
    assert all(isinstance(block, FSDPModule) for block in state.model.encoder.blocks)
    first = next(iter(state.model.parameters()))
    assert first.to_local().numel() < first.numel()
    train("in-parts", folder, folder / "sharded" / "in-parts")
    train("mae", folder, folder / "sharded" / "whole", stop=(1, 0))


# --- what comes of it -------------------------------------------------------------------------------------------------

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SHARDED = "--use_fsdp --fsdp_version 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"


def launch(launcher, *command):
    """The processes of a launcher once they are done."""
    words = [sys.executable, "-m", *launcher, *map(str, command)]
    return subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the data, and of all that two processes made of it; part of that was begun by one."""
    folder = tmp_path_factory.mktemp("distributed")
    cases = {"training": 4, "validation": 3, "unlabelled": 2}
    write_phantoms(folder / "phantoms", cases, 3, (24, 24, 20), (13.0, 13.0, 14.0))
    convert("adni", write_ventricles(folder / "brains", 24))
    write_card(card_of("mae"), folder / "card")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MIMZOO_HOME", str(folder / "home"))
        train("mae", folder, folder / "from-one", stop=(2, 0))
        done = launch(TORCHRUN, __file__, folder)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stderr)
    return folder


@pytest.fixture
def folder(made, monkeypatch):
    """The folder of all that was made, whose scans are prepared."""
    monkeypatch.setenv("MIMZOO_HOME", str(made / "home"))
    return made


@pytest.fixture(scope="module")
def told(made):
    """What each of the two processes found."""
    return [json.loads((made / f"{number}-of-2.json").read_text()) for number in (0, 1)]


def state_of(run):
    tensors = read_weights(run / "checkpoints" / "last.safetensors")
    return {key: value.double() for key, value in tensors.items() if not key.startswith("random")}


def difference(run, other):
    """The largest one between two runs, over weights, averages and the moments of their gradients."""
    one, two = state_of(run), state_of(other)
    assert one.keys() == two.keys()
    return max((one[key] - two[key]).abs().max().item() for key in one)


def figures_of(run):
    rows = csv.DictReader((run / "history.csv").open())
    return {(row["step"], row["split"], row["name"]): float(row["value"]) for row in rows}


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_as_one(folder, tmp_path, name):
    train(name, folder, tmp_path / "run")
    assert difference(tmp_path / "run", folder / "two" / name) < 1e-5
    # Weights that differ so little may correlate a little differently.
    assert figures_of(tmp_path / "run") == pytest.approx(figures_of(folder / "two" / name), abs=1e-4)
    best = [read_about(run / "checkpoints" / "best.safetensors") for run in (tmp_path / "run", folder / "two" / name)]
    assert best[0] == pytest.approx(best[1], abs=1e-4)


def test_other_crops_and_masks_would_be_noticed(folder, tmp_path):
    train("mae", folder, tmp_path / "run", "pretraining.seed=1")
    assert difference(tmp_path / "run", folder / "two" / "mae") > 1e-2
    train("mae", folder, tmp_path / "masks", "pretraining.masking.args.ratio=0.5")
    assert difference(tmp_path / "masks", folder / "two" / "mae") > 1e-4


# Branches of a network are left out for crops by chance, which is the same in a part of a batch and in a share of it.
@pytest.mark.parametrize("name", ["mae", "shaken"])
def test_two_processes_train_as_one_in_two_parts(folder, tmp_path, name):
    train(name, folder, tmp_path / "run", "pretraining.accumulate=2")
    assert difference(tmp_path / "run", folder / "two" / name) < 1e-5


def test_two_processes_that_recompute_their_blocks_train_as_others(folder):
    assert difference(folder / "two" / "recomputed", folder / "two" / "mae") < 1e-6


def test_all_processes_end_alike(told):
    for name in (*PRETRAINING, *FINETUNING, "stopped"):
        assert told[0][name] == told[1][name]


def test_a_run_of_two_that_is_stopped_resumes_bit_by_bit(folder):
    assert difference(folder / "two" / "stopped", folder / "two" / "shaken") == 0
    assert figures_of(folder / "two" / "stopped") == figures_of(folder / "two" / "shaken")


def test_a_run_goes_on_with_another_number_of_processes(folder, tmp_path):
    train("mae", folder, tmp_path / "run")
    train("mae", folder, folder / "from-two", resume=True)
    for run in (folder / "from-one", folder / "from-two"):
        assert state_of(run).keys() and difference(tmp_path / "run", run) < 1e-5
        assert figures_of(tmp_path / "run") == pytest.approx(figures_of(run), abs=1e-5)


@pytest.mark.parametrize("name", FINETUNING)
def test_each_case_is_judged_once(folder, told, name):
    alone, everyone = judge(name, folder)
    (first, some), (second, others) = (each["judged"][name] for each in told)
    assert first == second == pytest.approx(alone, abs=1e-6)
    assert some and others and sorted([*some, *others]) == sorted(everyone)


def test_what_is_shared_out_comes_back_in_order(told):
    assert told[0]["shared out"] == told[1]["shared out"]
    assert [n for n, _ in told[0]["shared out"]] == [*range(7)] and {who for _, who in told[0]["shared out"]} == {0, 1}


def test_scans_are_prepared_by_one_process(told):
    new = [[after - before for before, after in each["prepared"]] for each in told]
    assert new[0][0] >= 7 and new[0][1] >= 24 and not any(new[1])


def test_a_failure_is_told_by_the_process_that_failed(told):
    assert "holds a run already; add --resume" in told[0]["begun again"] and told[1]["begun again"] == 1
    assert told[0]["no number"] == 1 and "the loss is nan at step 1" in told[1]["no number"]


def test_that_another_process_has_gone_is_one_sentence():
    with pytest.raises(MimzooError, match="another process of this training has ended"), company():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match="^something else$"), company():
        raise RuntimeError("something else")


def test_what_cannot_be_is_said_once(folder, told):
    sentence = "mimzoo: 2 processes cannot share a batch of 3 crops evenly (accumulate 1); set a batch that 2 divides"
    assert (folder / "said").read_text().count(sentence) == 1 and not (folder / "other").exists()
    assert [each["refused"] for each in told] == [1, 1]


def test_the_command_line_is_the_same_and_speaks_once(folder, tmp_path):
    words = ["pretrain", folder / "card", "--data", folder / "phantoms", "-o", tmp_path / "run", "--tracker", "none"]
    done = launch((*TORCHRUN, "-m"), "mimzoo", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model.safetensors") == 1 and done.stdout.count("step 2: validation") == 1
    assert load(tmp_path / "run").report.complete() and (tmp_path / "run" / "curves.png").is_file()
    assert difference(tmp_path / "run", folder / "two" / "mae") == 0


def test_weights_that_are_shared_out_are_saved_whole(folder, tmp_path):
    launcher = ("accelerate.commands.launch", "--num_processes", "2", *SHARDED.split())
    done = launch(launcher, __file__, folder, "sharded")
    assert done.returncode == 0, done.stderr
    for name, other in (("recomputed", "mae"), ("in-parts", "in-parts")):
        assert difference(folder / "sharded" / name, folder / "two" / other) < 1e-5
        best = read_weights(folder / "sharded" / name / "checkpoints" / "best.safetensors")
        assert best.keys() == read_weights(folder / "two" / other / "checkpoints" / "best.safetensors").keys()
    train("mae", folder, folder / "sharded" / "whole", resume=True)
    assert difference(folder / "sharded" / "whole", folder / "two" / "mae") < 1e-5


@pytest.mark.gpu
def test_weights_are_shared_out_on_a_device(phantoms, tmp_path):
    write_card(card_of("recomputed"), tmp_path / "card")
    command = ["mimzoo", "pretrain", tmp_path / "card", "--data", phantoms, "-o", tmp_path / "run"]
    done = launch(("accelerate.commands.launch", "--num_processes", "1", *SHARDED.split(), "-m"), *command)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "run").report.complete()
    train("mae", phantoms.parent, tmp_path / "plain")
    assert difference(tmp_path / "run", tmp_path / "plain") < 1e-3


# --- a crop's random numbers are its own ------------------------------------------------------------------------------


def volume(batch=4, size=(32, 32, 32)):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("name", [offer.name for offer in registry().of_kind("masking")])
def test_the_mask_of_a_crop_is_the_same_in_any_share(name):
    masking = find("masking", name).load()(find("masking", name).check({"unit": [8, 8, 8]}))
    whole = masking(volume(), torch.Generator().manual_seed(7), (8, 8, 8))
    for first, last in ((0, 2), (1, 4), (3, 4)):
        assert torch.equal(masking(volume()[first:last], Share(7, 4, first), (8, 8, 8)), whole[first:last])


@pytest.mark.parametrize(("change", "args"), [(make_view, SimClrArgs()), (corrupt, GenesisArgs())])
def test_the_views_of_a_crop_are_the_same_in_any_share(change, args):
    whole = change(volume(), torch.Generator().manual_seed(7), args)
    for first, last in ((0, 2), (1, 4), (3, 4)):
        found = change(volume()[first:last], Share(7, 4, first), args)
        assert torch.allclose(found, whole[first:last], atol=1e-6)


if __name__ == "__main__":
    work_sharded(Path(sys.argv[1])) if sys.argv[2:] else work(Path(sys.argv[1]))
