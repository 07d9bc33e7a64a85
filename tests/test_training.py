"""What the training loop is made of: the rate of each step, groups, averages, state on disk."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from mimzoo.errors import DataError
from mimzoo.recipes import Optimiser, Schedule
from mimzoo.training import Job, State, learning_rate, make_average, parameter_groups, train, update_average


def schedule(**changes):
    optimiser = Optimiser(lr=1.0, final_lr=0.1, warmup_steps=10)
    return Schedule(**{"steps": 110, "batch": 4, "validate_every": 50, "optimiser": optimiser, **changes})


def test_the_rate_warms_up_linearly_and_decays_by_half_a_cosine():
    rates = [learning_rate(schedule(), step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55) and rates[110] == pytest.approx(0.1)
    assert all(before >= after for before, after in pairwise(rates[9:]))


def test_vectors_are_not_decayed_and_rates_are_scaled():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    groups = parameter_groups(model, Optimiser(lr=1.0), lambda name: 0.5 if name.startswith("0.") else 1.0)
    found = {(group["weight_decay"], group["lr_scale"]): len(group["params"]) for group in groups}
    assert found == {(0.05, 0.5): 1, (0.0, 0.5): 1, (0.0, 1.0): 2}


def test_an_average_follows_its_model():
    model = nn.Linear(1, 1, bias=False)
    state = State(model, torch.optim.AdamW(model.parameters()), make_average(model, 0.9), step=10**6)
    before = state.average.weight.item()
    model.weight.data.fill_(before + 1)
    update_average(state, 0.9)
    assert state.average.weight.item() == pytest.approx(before + 0.1, abs=1e-6)
    assert make_average(model, 0.0) is None


def test_a_state_comes_back_from_disk_exactly(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = State(model, optimiser, make_average(model, 0.5), step=7, best=0.25, best_step=5, recent_losses=[1.0, 0.5])
    model(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    state.save(tmp_path / "state.safetensors")
    expected = continue_from(state)

    other = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    fresh = State(other, torch.optim.AdamW(other.parameters(), lr=0.1), make_average(other, 0.5))
    torch.manual_seed(99)
    fresh.load(tmp_path / "state.safetensors")
    assert (fresh.step, fresh.best, fresh.best_step, fresh.recent_losses) == (7, 0.25, 5, [1.0, 0.5])
    assert all(torch.equal(a, b) for a, b in zip(continue_from(fresh), expected, strict=True))


def continue_from(state):
    """The parameters after two more steps through dropout."""
    for _ in range(2):
        state.optimiser.zero_grad()
        state.model(torch.ones(2, 3)).square().sum().backward()
        state.optimiser.step()
    return [parameter.detach().clone() for parameter in state.model.parameters()]


class Numbers(torch.utils.data.Dataset):
    """Item i is the number i."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return {"volume": torch.tensor([float(index)]), "case": f"case {index}"}


def job(folder, loss_of, **changes):
    (folder / "checkpoints").mkdir(exist_ok=True)
    model = nn.Linear(1, 1)
    recipe = schedule(**{"steps": 4, "batch": 4, "validate_every": 2, "precision": "float32", **changes})
    groups = parameter_groups(model, recipe.optimiser)
    return Job(folder, recipe, model, groups, Numbers(), loss_of, lambda model: {"loss": 1.0}, False, "test")


def test_one_process_trains_in_one_precision_after_another(tmp_path):
    for number, precision in enumerate(("bfloat16", "float32", "bfloat16")):
        (tmp_path / str(number)).mkdir()
        found = []

        def loss_of(model, batch, step, found=found):
            found.append(torch.is_autocast_enabled(batch["volume"].device.type))
            return model(batch["volume"]).square().mean()

        train(job(tmp_path / str(number), loss_of, precision=precision))
        assert found == [precision == "bfloat16"] * 4


def test_accumulated_micro_batches_see_every_item_once(tmp_path):
    seen = []

    def loss_of(model, batch, step):
        seen.append((step, batch["volume"].flatten().tolist()))
        return model(batch["volume"]).square().mean()

    train(job(tmp_path, loss_of, accumulate=2))
    assert seen[:3] == [(0, [0.0, 1.0]), (0, [2.0, 3.0]), (1, [4.0, 5.0])]
    assert [value for _, values in seen for value in values] == [float(i) for i in range(16)]


def test_a_loss_that_is_no_number_stops_with_the_names_of_the_cases(tmp_path):
    def loss_of(model, batch, step):
        return model(batch["volume"]).sum() * (math.nan if step == 2 else 1.0)

    with pytest.raises(DataError, match=r"loss is nan at step 3 on case 8, case 9, case 10, case 11"):
        train(job(tmp_path, loss_of))
