"""What only a CUDA device can show: the same results as on the processor, within the precision of the device."""

import pytest
import torch

from mimzoo.cards import override
from mimzoo.finetune import finetune
from mimzoo.inference import numpy_predictor
from mimzoo.models import load
from mimzoo.pretrain import pretrain

pytestmark = pytest.mark.gpu


def test_a_model_gives_the_same_logits_on_both_devices(tiny_segmenter, phantoms, tmp_path):
    finetune(tiny_segmenter, phantoms, tmp_path / "seg")
    windows = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()
    here, there = (numpy_predictor(load(tmp_path / "seg", device=device))(windows) for device in ("cpu", "cuda"))
    assert abs(here - there).max() < 1e-2 * abs(here).max()


def test_a_finished_run_can_be_resumed(tiny_encoder, phantoms, tmp_path):
    pretrain(tiny_encoder, phantoms, tmp_path / "run")
    again = pretrain(tiny_encoder, phantoms, tmp_path / "run", resume=True)
    assert again.block.weights is not None


def test_bfloat16_trains_close_to_float32(tiny_encoder, phantoms, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        card = override(tiny_encoder, [f"pretraining.precision={precision}"])
        pretrain(card, phantoms, tmp_path / precision)
        rows = (tmp_path / precision / "history.csv").read_text().splitlines()
        losses[precision] = float([row for row in rows if "validation,loss" in row][-1].split(",")[-1])
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
