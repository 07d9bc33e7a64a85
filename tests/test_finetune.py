"""Fine-tuning and evaluation: learns, selects on validation, starts from verified weights, refuses misfits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mimzoo.cards import override, read_card
from mimzoo.data.datasets import Dataset, read_dataset
from mimzoo.errors import CardError, DataError, ShapeError, WeightsError
from mimzoo.evaluate import evaluate
from mimzoo.finetune import finetune, layer_scale, make_model
from mimzoo.inference import answer_with
from mimzoo.models import load
from mimzoo.pretrain import pretrain
from mimzoo.protocols import task_dataset
from mimzoo.scoring import answer_cases, score_row
from mimzoo.volume import read_labels

# Only a regressor is made to fit the data set.
DATASET = Dataset("none", Path())


@pytest.fixture
def segmenter(tiny_segmenter, phantoms, tmp_path):
    """The folder of a fine-tuned segmenter."""
    finetune(tiny_segmenter, phantoms, tmp_path / "seg")
    return tmp_path / "seg"


def test_a_run_learns_and_its_report_is_quoted_in_its_card(tiny_segmenter, phantoms, tmp_path):
    longer = override(tiny_segmenter, ["finetuning.steps=60", "finetuning.validate_every=20", "finetuning.batch=4"])
    longer = override(longer, ["finetuning.head.args={width: 8}", "finetuning.optimiser.lr=0.01"])
    finetune(longer, phantoms, tmp_path / "seg")
    result, folder = evaluate(tmp_path / "seg", phantoms)
    report = json.loads((folder / "metrics.json").read_text())
    assert report["summary"]["metrics"]["dice"]["mean"] == result.summary.metrics["dice"].mean > 0.1
    assert result.summary.classes["Liver"].metrics["dice"].mean > 0.3
    quoted = {metric.name: metric.value for metric in read_card(folder).block.metrics}
    assert quoted["dice"] == round(result.summary.metrics["dice"].mean, 4)
    assert (folder / "overlays.png").read_bytes().startswith(b"\x89PNG")
    assert "selected on these cases" in result.protocol


def test_a_perfect_segmenter_scores_one_in_the_scans_own_grid(tiny_segmenter, phantoms):
    dataset = task_dataset(tiny_segmenter, phantoms)
    truths = iter([read_labels(case.label) for case in dataset.validation])
    task, scoring = tiny_segmenter.block.task, tiny_segmenter.block.finetuning.scoring
    for row in answer_cases(lambda scan: next(truths), dataset.validation, dataset, tiny_segmenter):
        shown = [found for found in score_row(row, task, scoring).values() if found is not None]
        assert shown and all((found.dice, found.hd95_mm, found.surface_dice) == (1.0, 0.0, 1.0) for found in shown)


def test_the_encoder_starts_from_the_pretrained_weights(tiny_encoder, tiny_segmenter, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "encoder")
    card = override(tiny_segmenter, [f"finetuning.start={tmp_path / 'encoder'}"])
    pretrained, start = make_model(card, DATASET), load(tmp_path / "encoder")
    assert torch.equal(pretrained.encoder.patch.weight, start.patch.weight)
    assert not torch.equal(make_model(tiny_segmenter, DATASET).encoder.patch.weight, start.patch.weight)

    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"rotten")
    with pytest.raises(WeightsError, match="not the file that its card names"):
        finetune(card, phantoms, tmp_path / "seg")
    assert not (tmp_path / "seg").exists()


def test_a_start_that_does_not_fit_is_refused(tiny_encoder, tiny_segmenter, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "encoder")
    start = f"finetuning.start={tmp_path / 'encoder'}"
    with pytest.raises(ShapeError, match="has the encoder vit-small, its start .* has vit-tiny"):
        make_model(override(tiny_segmenter, [start, "encoder.name=vit-small"]), DATASET)
    with pytest.raises(ShapeError, match="vit-tiny with width 48, its start .* with width 24; .* --set 'encoder.args="):
        make_model(override(tiny_segmenter, [start, "encoder.args.width=48"]), DATASET)
    with pytest.raises(WeightsError, match="has no weights yet; train them with: mimzoo pretrain vit-mae-phantom"):
        make_model(override(tiny_segmenter, ["finetuning.start=vit-mae-phantom"]), DATASET)


def test_deeper_blocks_learn_faster(tiny_segmenter):
    scale = layer_scale(make_model(tiny_segmenter, DATASET), 0.5)
    assert scale("head.logits.weight") == 1.0
    assert [scale(f"encoder.blocks.{n}.norm1.weight") for n in range(4)] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert scale("encoder.patch.weight") == 0.5**5


def test_few_labels_are_few_and_the_rest_is_not_read(tiny_segmenter, phantoms, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    card = override(tiny_segmenter, ["finetuning.labelled=1", "finetuning.steps=2", "finetuning.validate_every=2"])
    finetune(card, copy, tmp_path / "seg")
    with pytest.raises(DataError, match="cannot take 9 labelled training cases; give 1 to 4"):
        finetune(override(card, ["finetuning.labelled=9"]), copy, tmp_path / "other")


def test_other_labels_and_missing_splits_are_refused(tiny_segmenter, tiny_encoder, phantoms, tmp_path):
    with pytest.raises(DataError, match="labels .*Liver.*, card vit-mae-phantom-seg labels .*Heart"):
        finetune(override(tiny_segmenter, ["labels={1: Heart}"]), phantoms, tmp_path / "seg")
    with pytest.raises(CardError, match="vit-mae-phantom has no fine-tuning recipe; .*vit-mae-phantom-seg"):
        finetune(tiny_encoder, phantoms, tmp_path / "seg")
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    table = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**table, "validation": []}))
    with pytest.raises(DataError, match="no labelled validation cases"):
        finetune(tiny_segmenter, copy, tmp_path / "seg")


def test_evaluating_an_encoder_or_an_unknown_split_is_refused(segmenter, tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "encoder")
    with pytest.raises(CardError, match="has no fine-tuning recipe"):
        evaluate(tmp_path / "encoder", phantoms)
    with pytest.raises(DataError, match="unknown split 'validaton'; did you mean 'validation'"):
        evaluate(segmenter, phantoms, split="validaton")


def test_the_mask_lies_in_the_scans_own_grid(segmenter, phantoms):
    from mimzoo.volume import read_scan

    segment = answer_with(load(segmenter), read_card(segmenter))
    for case in read_dataset(phantoms).training:
        scan = read_scan(case.image)
        mask = segment(scan)
        assert mask.voxels.shape == scan.grid.shape
        assert np.allclose(mask.grid.affine, scan.grid.affine)
