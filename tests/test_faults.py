"""A run that cannot be killed: after signals, kills, full disks and damaged scans it goes on as if nothing had been."""

import csv
import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny
from torch import nn

from mimzoo import cli, faults, pretrain
from mimzoo.cards import override, write_card
from mimzoo.data import arrays
from mimzoo.data.crops import CropDataset
from mimzoo.errors import DataError
from mimzoo.faults import Skipped
from mimzoo.phantoms import write_phantoms
from mimzoo.recipes import Optimiser, Schedule
from mimzoo.training import Job, parameter_groups, train
from mimzoo.weights import read_about, read_weights

# Real processes, born of one that has imported everything, for importing takes longer than such a run.
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(
    ["torch._dynamo", "monai.transforms", "mimzoo_vit.encoder", "mimzoo_mim.objective", "test_faults"]
)
STEPS, BATCH, CASES = 30, 2, 12
LONG = [
    f"pretraining.steps={STEPS}",
    "pretraining.validate_every=15",
    "pretraining.optimiser.ema_decay=0.9",
    "pretraining.augmentation.noise=0.1",
    "encoder.args.drop_path=0.2",
]


class Run:
    """`mimzoo pretrain` in a process of its own, which `harm` may change before it begins."""

    def __init__(self, folder, card, data, home, *extra, harm=None):
        self.folder, self.log = folder, folder.parent / f"{folder.name}.log"
        arguments = ["pretrain", str(card), "--data", str(data), "-o", str(folder), "--tracker", "none", *extra]
        begin = (arguments, str(home), str(self.log), harm)
        self.process = SPAWN.Process(target=command_line, args=begin)
        self.process.start()

    def wait(self):
        """Wait for the end; return the exit code and what was said on stderr."""
        self.process.join(100)
        return self.process.exitcode, self.said()

    def said(self):
        return self.log.read_text() if self.log.is_file() else ""

    def wait_for(self, step):
        """Wait until the run has saved this step."""
        self.wait_until(lambda: self.saved() >= step)

    def wait_until(self, true):
        end = time.monotonic() + 100
        while not true():
            assert self.process.is_alive() and time.monotonic() < end, self.said()
            time.sleep(0.005)

    def saved(self):
        path = self.folder / "checkpoints" / "last.safetensors"
        return read_about(path)["step"] if path.is_file() else 0


def command_line(arguments, home, log, harm):
    """Run the command line in this process, a session of its own."""
    os.setsid()
    # Of a loader's processes too, which have to inherit the harm.
    multiprocessing.set_start_method("fork", force=True)
    os.environ["MIMZOO_HOME"] = home
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # The sum of many numbers depends on how many threads share it.
    torch.set_num_threads(1)
    sys.argv = ["mimzoo", *arguments]
    # Pictures take longer than all the rest.
    pretrain.draw_run = pretrain.draw_stage = pretrain.report_run = lambda *arguments: None
    if harm is not None:
        harm()
    cli.main()


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with a card, data, the prepared store in `home`, and `straight`, a run that nothing befell."""
    ground = tmp_path_factory.mktemp("faults")
    write_phantoms(ground / "data", {"training": CASES, "validation": 2}, 3, (24, 24, 20), (13.0, 13.0, 14.0))
    write_card(override(tiny("pretraining", "vit-mae-phantom"), LONG), ground / "card")
    first = SPAWN.Process(target=int)
    first.start()
    first.join()
    begun = time.monotonic()
    assert run(ground, ground / "straight").wait() == (0, "")
    (ground / "seconds").write_text(str(time.monotonic() - begun))
    stopped = run(ground, ground / "stopped", "--save-seconds", "0")
    stopped.wait_for(9)
    stopped.process.terminate()
    assert stopped.wait()[0] == 130
    return ground


def run(ground, folder, *extra, home=None, harm=None):
    return Run(folder, ground / "card", ground / "data", home or ground / "home", *extra, harm=harm)


@pytest.fixture
def stopped(ground, tmp_path):
    """The folder of a run that was asked to stop at some step from 9 on."""
    return shutil.copytree(ground / "stopped", tmp_path / "run")


@pytest.fixture
def damageable(ground, tmp_path):
    """A copy of the prepared store, to be damaged."""
    return shutil.copytree(ground / "home", tmp_path / "home")


def check_same(one, two):
    """Check that two runs ended with the same bytes."""
    names = ("last.safetensors", "best.safetensors")
    for name in ("model.safetensors", "pretraining.safetensors", "history.csv", *(f"checkpoints/{n}" for n in names)):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert temporary(one) == []


def temporary(folder):
    return list(folder.rglob("*.part"))


# --- killed and stopped -----------------------------------------------------------------------------------------------


def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(ground, tmp_path):
    moments, folder, seconds = random.Random(4), tmp_path / "run", float((ground / "seconds").read_text())
    kills = 0
    while kills < 6:
        workers = ["--workers", "2"] if moments.random() < 0.3 else []
        killed = run(ground, folder, "--save-seconds", "0", *begun(folder), *workers)
        killed.process.join(moments.uniform(0.1, 0.6) * seconds)
        killed.process.kill()
        code, said = killed.wait()
        if code == -signal.SIGKILL:
            kills += 1
            continue
        # It was done before.
        assert code == 0, said
        check_same(folder, ground / "straight")
        shutil.rmtree(folder)
    assert run(ground, folder, *begun(folder)).wait()[0] == 0
    check_same(folder, ground / "straight")


def begun(folder):
    """What a command needs to go on with the run in a folder, if there is one."""
    return ["--resume"] if (folder / "README.md").is_file() else []


def die_saving():
    """Die by SIGKILL when the state of step 15 is written, but not yet in its place."""
    whole = os.replace

    def replace(source, target):
        if Path(target).name == "last.safetensors" and read_about(Path(source))["step"] == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(source, target)

    os.replace = replace


def test_a_kill_in_the_middle_of_a_save_leaves_the_state_before_it(ground, stopped):
    before = run(ground, stopped, "--resume", "--save-seconds", "0", harm=die_saving)
    assert before.wait()[0] == -signal.SIGKILL
    assert before.saved() == 14 and len(temporary(stopped)) == 1
    # Rows that were written after the state belong to steps that are taken again.
    with (stopped / "history.csv").open("a") as history:
        history.write("15,training,loss,0.5\n16,train")
    assert run(ground, stopped, "--resume").wait()[0] == 0
    check_same(stopped, ground / "straight")


def test_a_signal_to_all_processes_of_a_run_stops_it_whole(ground, tmp_path):
    stopping = run(ground, tmp_path / "run", "--save-seconds", "0", "--workers", "2")
    stopping.wait_for(5)
    os.killpg(stopping.process.pid, signal.SIGTERM)
    code, said = stopping.wait()
    assert code == 130, said
    assert said.count("\n") == 2 and "continue with: mimzoo pretrain" in said and said.endswith("--resume\n")
    assert run(ground, tmp_path / "run", "--resume").wait()[0] == 0
    check_same(tmp_path / "run", ground / "straight")


def sleep_saving():
    """Take a minute to save the state once the run was asked to stop."""

    def fsync(number):
        if b"stopping" in Path("/proc/self/fd/2").read_bytes():
            os.write(2, b"asleep\n")
            time.sleep(60)

    os.fsync = fsync


def test_a_second_signal_stops_at_once_and_leaves_nothing_half_written(ground, stopped):
    stopping = run(ground, stopped, "--resume", "--save-seconds", "0", harm=sleep_saving)
    stopping.wait_for(15)
    os.kill(stopping.process.pid, signal.SIGINT)
    stopping.wait_until(lambda: "asleep" in stopping.said())
    os.kill(stopping.process.pid, signal.SIGINT)
    code, said = stopping.wait()
    assert code == 130 and "interrupted; continue with: mimzoo pretrain" in said
    assert temporary(stopped) == [] and stopping.saved() >= 15
    assert run(ground, stopped, "--resume").wait()[0] == 0
    check_same(stopped, ground / "straight")


# --- full disks -------------------------------------------------------------------------------------------------------


def no_space():
    """Find the disk full whenever a state is written."""
    whole = os.fsync

    def fsync(number):
        if Path(f"/proc/self/fd/{number}").readlink().suffix == ".part":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(number)

    os.fsync = fsync


def small_files():
    """Be allowed files of 200 kB, as on a disk with a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@pytest.mark.parametrize(("harm", "reason"), [(no_space, "No space left on device"), (small_files, "File too large")])
def test_a_full_disk_costs_nothing_but_a_stop(ground, stopped, harm, reason):
    last = stopped / "checkpoints" / "last.safetensors"
    before = last.read_bytes()
    assert len(before) > 200_000
    code, said = run(ground, stopped, "--resume", "--save-seconds", "0", harm=harm).wait()
    assert code == 1 and said.count("\n") == 1
    assert said.startswith(f"mimzoo: cannot write {last}") and reason in said and "--resume goes on from it" in said
    assert last.read_bytes() == before and temporary(stopped) == []
    assert run(ground, stopped, "--resume").wait()[0] == 0
    check_same(stopped, ground / "straight")


def test_a_history_that_cannot_be_written_is_one_sentence(tmp_path):
    shut = job(tmp_path, Slow(0), steps=12)
    shut.validate = lambda model: (tmp_path / "history.csv").unlink() or (tmp_path / "history.csv").mkdir() or {"a": 1}
    with pytest.raises(DataError, match=r"cannot write .*history.csv: Is a directory; what was saved before is whole"):
        train(shut)


# --- a loss that is no number -----------------------------------------------------------------------------------------


def poison():
    """Make voxels of item 30 infinite."""
    draw = CropDataset._draw

    def poisoned(self, case, index):
        item = draw(self, case, index)
        if index == 30 and self.count == STEPS * BATCH:
            item["volume"][0, :4, :4, :4] = torch.inf
        return item

    CropDataset._draw = poisoned


def test_a_loss_that_is_no_number_leaves_its_batch_and_the_state_before(ground, stopped):
    code, said = run(ground, stopped, "--resume", "--save-seconds", "0", harm=poison).wait()
    assert code == 1 and said.count("\n") == 1
    assert "the loss is nan at step 16 on training_" in said and "bad-batch.json" in said
    about = json.loads((stopped / "bad-batch.json").read_text())
    tensors = read_weights(stopped / "bad-batch.safetensors")
    assert (about["step"], about["loss"], about["seed"], len(about["cases"])) == (16, "nan", 0, BATCH)
    assert about["starts"] == tensors["start"].tolist() and 0 < about["learning_rate"] < 1
    assert torch.isinf(tensors["volume"]).sum((1, 2, 3, 4)).tolist() == [64, 0]
    last = stopped / "checkpoints" / "last.safetensors"
    assert read_about(last)["step"] == 15
    assert all(torch.isfinite(tensor).all() for tensor in read_weights(last).values())
    assert run(ground, stopped, "--resume").wait()[0] == 0
    check_same(stopped, ground / "straight")


def test_a_gradient_that_is_no_number_is_found_before_its_step_is_taken(tmp_path):
    broken = job(tmp_path, Slow(0), lambda model, batch, step: (model(batch["volume"]).sum() * 0).sqrt() + 1)
    before = [value.clone() for value in broken.model.parameters()]
    with pytest.raises(
        DataError, match=r"the gradient is nan at step 1 on case 0, case 1; its crops are kept in .*json"
    ):
        train(broken)
    assert all(torch.equal(a, b) for a, b in zip(before, broken.model.parameters(), strict=True))
    assert read_weights(tmp_path / "bad-batch.safetensors")["volume"].tolist() == [[0.0], [1.0]]


# --- damaged scans ----------------------------------------------------------------------------------------------------


def damage(home, numbers):
    """Flip a bit in the prepared images of these cases; return their names."""
    images = [sorted((home / "prepared").rglob("training*.image.b2nd"))[number] for number in numbers]
    for path in images:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    return [path.name.rpartition("-")[0] for path in images]


def skipped(folder):
    with (folder / "skipped.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_damaged_case_is_named_once_and_replaced_the_same_way_each_time(ground, damageable, tmp_path):
    (name,) = damage(damageable, [3])
    code, said = run(ground, tmp_path / "straight", "--workers", "2", home=damageable).wait()
    assert code == 0 and said.count("\n") == 1
    assert said.startswith(f"mimzoo: case {name} is replaced by others from step ") and "damaged or gone" in said
    killed = run(ground, tmp_path / "run", "--save-seconds", "0", home=damageable)
    killed.wait_for(int(skipped(tmp_path / "straight")[0]["step"]))
    killed.process.kill()
    assert killed.wait()[1] == said
    assert run(ground, tmp_path / "run", "--resume", home=damageable).wait() in [(0, ""), (0, said)]
    check_same(tmp_path / "run", tmp_path / "straight")
    assert skipped(tmp_path / "run") == skipped(tmp_path / "straight")
    assert [row["case"] for row in skipped(tmp_path / "run")] == [name]
    plain = read_weights(ground / "straight" / "model.safetensors")
    assert any(not torch.equal(plain[k], v) for k, v in read_weights(tmp_path / "run" / "model.safetensors").items())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_case_that_is_deleted_in_the_middle_does_not_stop_a_run(ground, damageable, tmp_path, workers):
    going = run(ground, tmp_path / "run", "--save-seconds", "0", "--workers", workers, home=damageable)
    going.wait_for(5)
    sorted((damageable / "prepared").rglob("training*.image.b2nd"))[0].unlink()
    code, said = going.wait()
    assert code == 0 and said.count("\n") == 1
    (row,) = skipped(tmp_path / "run")
    assert int(row["step"]) > 5 and "gone" in row["reason"] and row["case"] in said


@pytest.mark.parametrize("workers", ["0", "2"])
def test_too_many_damaged_cases_stop_a_run(ground, stopped, damageable, workers):
    names = damage(damageable, [2, 5])
    code, said = run(ground, stopped, "--resume", "--workers", workers, home=damageable).wait()
    assert code == 1
    assert f"mimzoo: 2 of 12 cases can no longer be read, more than a run goes on without: {', '.join(names)}; " in said
    assert said.count("\n") == 3 and "Traceback" not in said
    damage(damageable, {*range(CASES)} - {2, 5})
    code, said = run(ground, stopped, "--resume", "--workers", workers, home=damageable).wait()
    assert code == 1 and said.count("\n") == 1
    assert "mimzoo: none of the 12 prepared cases can be read; of the first, " in said


def test_what_was_left_out_after_the_last_state_is_forgotten(tmp_path, capsys):
    before = Skipped(tmp_path, 30, 0)
    before.note(4, ["", json.dumps({"a": "gone"})])
    before.note(8, [json.dumps({"b": "gone", "a": "gone"})])
    after = Skipped(tmp_path, 30, 7)
    assert [row["case"] for row in skipped(tmp_path)] == ["a"]
    capsys.readouterr()
    after.note(8, [json.dumps({"a": "gone", "b": "gone"})])
    assert capsys.readouterr().err == "mimzoo: case b is replaced by others from step 8 on: gone\n"


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    voxels = torch.arange(2 * 66 * 9 * 20, dtype=torch.int32).sin().reshape(2, 66, 9, 20).numpy().astype("float16")
    voxels[1, :64] = 0
    content, chance = arrays.compress(voxels), random.Random(0)
    whole = tuple(slice(0, n) for n in voxels.shape)
    path = tmp_path / "a.b2nd"
    places = [*range(0, 200, 3), *range(len(content) - 300, len(content), 5), *chance.sample(range(len(content)), 100)]
    noticed = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            assert (arrays.read_part(path, voxels.shape, whole) == voxels).all()
        except DataError:
            noticed += 1
    # Some bytes of the frame tell nothing of the voxels.
    assert noticed > 0.8 * len(places)


# --- loaders ----------------------------------------------------------------------------------------------------------


def die_loading():
    """Let the loader's process die of item 30, as when memory runs out."""
    draw = CropDataset._draw

    def deadly(self, case, index):
        if index == 30 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(self, case, index)

    CropDataset._draw = deadly


def test_a_loader_that_dies_is_one_sentence(ground, stopped):
    code, said = run(ground, stopped, "--resume", "--workers", "1", harm=die_loading).wait()
    assert code == 1 and said.count("\n") == 1 and "mimzoo: a process that loads crops died (DataLoader worker" in said
    assert run(ground, stopped, "--resume").wait()[0] == 0
    check_same(stopped, ground / "straight")


class Slow(torch.utils.data.Dataset):
    """Item i is the number i, and takes so many seconds to load."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return {"volume": torch.tensor([float(index)]), "case": f"case {index}"}


def job(folder, data, loss_of=lambda model, batch, step: model(batch["volume"]).square().mean(), steps=40, workers=0):
    model = nn.Linear(1, 1)
    recipe = Schedule(steps=steps, batch=2, validate_every=10, optimiser=Optimiser(lr=0.1), precision="float32")
    groups = parameter_groups(model, recipe.optimiser)
    return Job(folder, recipe, model, groups, data, loss_of, lambda model: {"a": 1.0}, False, "test", workers=workers)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(faults, "STEPS", 10)
    monkeypatch.setattr(faults, "SECONDS", 0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_that_wait_for_their_crops_say_so_once(tmp_path, capsys, impatient, monkeypatch, workers):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    train(job(tmp_path, Slow(0.02), workers=workers))
    said = capsys.readouterr().err
    assert said.count("the steps wait for crops ") == 1 and f"--workers 2 (now {workers})" in said


def test_steps_that_take_long_themselves_do_not(tmp_path, capsys, impatient):
    def loss_of(model, batch, step):
        time.sleep(0.1)
        return model(batch["volume"]).square().mean()

    train(job(tmp_path, Slow(0), loss_of, steps=20))
    assert capsys.readouterr().err == ""
