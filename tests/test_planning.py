"""Plans: what is told of a training before it is begun is what it takes, and what fits is what is said to fit."""

import sys
from dataclasses import replace
from pathlib import Path

import bench_plan
import make_scale
import pytest
import torch
from conftest import tiny
from torch import nn
from torch.nn import functional

from mimzoo.cards import find_card, override
from mimzoo.cli import main
from mimzoo.errors import CardError, MimzooError, ShapeError, UnknownNameError
from mimzoo.planning import advise, make_batch, make_loss, make_model, plan, read_memory, usable
from mimzoo.rehearsal import Meter, Stage, Way

F32, BF16 = Way(), Way(bfloat16=True)
WIDE = [
    "encoder={name: swin-tiny, args: {width: 12, depths: [2], heads: [3]}}",
    "input.crop=[32, 32, 32]",
    "pretraining.objective={name: simmim}",
    "pretraining.masking={name: random, args: {ratio: 0.5, unit: [16, 16, 16]}}",
    "pretraining.decoder={name: linear}",
]


def swin_with_wide_windows():
    """A card whose windows hold 343 cells, so that the gradient of attention is a function of its own."""
    return override(find_card("swin-mae-hippocampus"), WIDE)


def staged(card, task="pretraining"):
    return Stage(make_model(card, task)), make_loss(card, task)


def rehearse(card, crops, way=F32, task="pretraining"):
    stage, loss_of = staged(card, task)
    return stage.rehearse(make_batch(card, task, crops, stage.tensor), loss_of, way)


# --- what is told is so -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process cannot be measured")
@pytest.mark.parametrize(
    ("name", "task", "batch", "way"),
    [
        ("vit-mae-hippocampus", "pretraining", 8, Way(gpu=False)),
        ("vit-mae-hippocampus-seg", "finetuning", 4, Way(bfloat16=True, checkpointing=True, gpu=False)),
    ],
)
def test_the_peak_is_that_of_a_training(name, task, batch, way):
    case = bench_plan.Case(name, task, batch)
    assert bench_plan.predict(case, [way]) == pytest.approx(bench_plan.in_process("alive", case, way), rel=0.2)


def test_a_step_of_linear_layers_is_added_up_rightly():
    model = nn.Sequential(nn.Linear(100, 200, bias=False), nn.Linear(200, 300, bias=False))
    stage = Stage(model)
    found = stage.rehearse(
        {"volume": stage.tensor(5, 100)}, lambda model, batch, step: model(batch["volume"]).sum(), F32
    )
    # The input needs no gradient, so that the first layer multiplies twice and the second three times.
    assert found.flops == 2 * 5 * (2 * 100 * 200 + 3 * 200 * 300)
    # The input, what lies between the layers, the sum (one float), and what it was taken of until the loss is returned
    assert found.kept == 4 * (5 * 100 + 5 * 200 + 1)
    # In the end the gradients of both layers, the input, the sum and its gradient; the last one is done thereafter.
    assert found.alive[-1] == 4 * (100 * 200 + 200 * 300) + 4 * (5 * 100 + 2)
    assert found.gradients[-1] == 4 * 200 * 300
    assert max(found.alive) > found.kept


def test_a_tensor_that_two_share_counts_once():
    stage = Stage(nn.Linear(8, 8, bias=False))

    def loss_of(model, batch, step):
        x = batch["volume"].view(2, 2, 8)
        return (functional.gelu(x) + x.flatten(0, 1).view(2, 2, 8)).sum() + model(batch["volume"]).sum()

    found = stage.rehearse({"volume": stage.tensor(4, 8)}, loss_of, F32)
    assert found.kept == 4 * (4 * 8 + 1)


@pytest.mark.parametrize("way", [F32, BF16])
@pytest.mark.parametrize(
    ("card", "task"),
    [
        (swin_with_wide_windows(), "pretraining"),
        (tiny("finetuning", "vit-mae-phantom-seg"), "finetuning"),
        (find_card("vit-simclr-hippocampus"), "pretraining"),
    ],
    ids=["swin", "segmenter", "simclr"],
)
def test_two_rehearsals_tell_the_peak_of_any_other(card, task, way):
    (need,) = plan(card, task, ways=[way]).needs
    beside = max(rehearse(card, 7, way, task).alive)
    assert need.peak(7, accumulates=False) == need.weights + need.optimiser + beside


def test_a_gradient_of_its_own_takes_as_many_operations_as_it_is_said_to():
    card = swin_with_wide_windows()
    model, meter = make_model(card, "pretraining").train(), Meter()
    batch = make_batch(card, "pretraining", 2, bench_plan.real)
    with meter:
        torch.autograd.backward(make_loss(card, "pretraining")(model, batch, 0))
    assert rehearse(card, 2).flops == pytest.approx(meter.flops, rel=1e-3)


def test_parameters_and_weights_are_those_of_the_model(tiny_encoder):
    model = make_model(tiny_encoder, "pretraining")
    found = plan(tiny_encoder, ways=[F32])
    assert found.parameters.encoder == sum(each.numel() for each in model.encoder.parameters())
    assert found.parameters.encoder + found.parameters.rest == sum(each.numel() for each in model.parameters())
    (need,) = found.needs
    assert need.weights == 4 * sum(each.numel() for each in [*model.parameters(), *model.buffers()])
    assert need.optimiser == 2 * need.gradients == 8 * found.parameters.trained
    assert (need.average, need.exchange) == (0, 0)


def test_an_average_and_other_devices_take_memory_too(tiny_encoder):
    card = override(tiny_encoder, ["pretraining.optimiser.ema_decay=0.9", "pretraining.batch=4"])
    alone, shared = (plan(card, devices=devices, ways=[F32]) for devices in (1, 2))
    assert alone.needs[0].average == alone.needs[0].weights
    assert shared.needs[0].exchange == shared.needs[0].gradients
    assert (alone.crops, shared.crops) == (4, 2)


def test_checkpointing_keeps_less_and_computes_more(tiny_segmenter):
    kept, again = plan(tiny_segmenter, ways=[F32, Way(checkpointing=True)]).needs
    assert again.of_crop < kept.of_crop
    assert kept.more.flops < again.more.flops < 4 / 3 * kept.more.flops


def test_norms_are_in_float32_on_a_gpu(tiny_segmenter):
    gpu, cpu = plan(tiny_segmenter, ways=[BF16, replace(BF16, gpu=False)]).needs
    assert gpu.of_crop > cpu.of_crop


def test_masks_may_depend_on_voxels(tiny_encoder):
    masking = "{name: foreground, args: {unit: [8, 8, 8]}}"
    assert plan(override(tiny_encoder, [f"pretraining.masking={masking}"]), ways=[F32]).flops > 0


def test_nothing_stays_behind():
    before = torch.autograd.Function.__dict__["apply"], torch.group_norm, torch.layer_norm
    plan(tiny("finetuning", "vit-mae-phantom-seg"), ways=[BF16])
    stage = Stage(nn.Linear(4, 4))
    with pytest.raises(ShapeError, match="shapes depend on values"):
        stage.rehearse(
            {"volume": stage.tensor(2, 4)}, lambda model, batch, step: model(batch["volume"]).nonzero(), BF16
        )
    assert before == (torch.autograd.Function.__dict__["apply"], torch.group_norm, torch.layer_norm)
    assert torch.zeros(1).untyped_storage().nbytes() == 4


# --- what fits --------------------------------------------------------------------------------------------------------


def test_the_largest_batch_fits_and_no_larger_one(tiny_segmenter):
    (need,) = plan(tiny_segmenter, ways=[F32]).needs
    for crops in (1, 3, 20):
        memory = int(need.peak(crops, False) / 0.9) + 2
        assert need.peak(crops, False) <= usable(memory)
        assert need.most_crops(memory, False) == crops
    assert need.most_crops(need.weights, False) == 0


def test_a_batch_that_is_too_large_is_computed_in_parts(tiny_segmenter):
    found = plan(override(tiny_segmenter, ["finetuning.batch=12"]), ways=[F32])
    (need,) = found.needs
    assert need.peak(4, True) > need.peak(4, False)
    memory = int(need.peak(4, True) / 0.9) + 2
    assert not found.fits(need, memory)
    assert found.parts(need, memory) == 3
    assert found.parts(need, int(need.peak(12, False) / 0.9) + 2) == 1
    assert found.parts(need, need.weights) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("24 GiB", 24 * 2**30), ("8000mb", 8 * 10**9), ("1.5TB", 15 * 10**11), ("512MiB", 2**29)],
)
def test_memory_is_read_as_people_write_it(text, size):
    assert read_memory(text) == size


@pytest.mark.parametrize("text", ["24", "GB", "-3GB", "0GB", "24G", "24 GB of it", "1e3GB", "nan GB", ""])
def test_other_memory_is_refused_in_one_sentence(text):
    with pytest.raises(MimzooError, match=r"^--memory '.*' is no amount of memory; write .*such as 24GB$"):
        read_memory(text)


def test_what_cannot_be_planned_is_refused():
    card = find_card("vit-mae-hippocampus")
    with pytest.raises(MimzooError, match="3 devices cannot share a batch of 8 crops evenly.* divides 8"):
        plan(card, devices=3)
    with pytest.raises(MimzooError, match="4 devices cannot share a batch of 8 crops in 4 parts evenly.* divides 2"):
        plan(override(card, ["pretraining.accumulate=4"]), devices=4)
    with pytest.raises(CardError, match="no fine-tuning recipe"):
        plan(card, "finetuning")
    with pytest.raises(UnknownNameError, match="did you mean 'pretraining'"):
        plan(card, "pretrain")


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_command_shows_memory_and_what_fits(monkeypatch, capsys):
    words = "mimzoo plan vit-mae-phantom --memory 24GB --devices 2 --set pretraining.batch=4"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit, match="0"):
        main()
    shown = capsys.readouterr().out
    assert shown.startswith("vit-mae-phantom, pretraining: batch 4 of 32 x 32 x 32, 2 on each of 2 devices\n")
    rows = {line[:20].strip(): line.split() for line in shown.splitlines()}
    for row in ("weights", "gradients", "optimiser (AdamW)", "exchange of gradient", "activations of a cro", "peak"):
        assert len(rows[row]) >= 5
    assert rows["accumulate for 4"][-4:] == ["1"] * 4
    assert rows["fits into 24 GB, a t"][-4:] == ["yes"] * 4


def test_what_does_not_fit_comes_with_what_to_do(tiny_segmenter):
    found = plan(override(tiny_segmenter, ["finetuning.batch=12"]), ways=[F32])
    (need,) = found.needs
    assert advise(found, 10**10) is None
    told = advise(found, int(need.peak(4, True) / 0.9) + 2)
    assert told.endswith("--set finetuning.accumulate=3 --set finetuning.precision=float32")
    assert advise(found, need.weights).startswith("not even one crop fits: that takes ")


def test_the_page_has_the_tables_that_are_computed_now():
    page = make_scale.PAGE.read_text(encoding="utf-8")
    for name in ("devices", "stores"):
        assert f"<!-- {name}: generated -->\n{make_scale.PARTS[name]()}\n<!-- {name}: end -->" in page
    assert f"\n| {' | '.join(make_scale.scale_row('vit-mae-btcv', 'pretraining'))} |\n" in page
    assert {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")} >= {
        name for name, _ in make_scale.SCALED
    }
