"""The heads for whole scans: what they look at, what they refuse, and their export."""

import copy

import pytest
import torch
from graphs import constant_air, exported
from torch import nn
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel
from mimzoo.registry import find
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer

HEADS = ["mean-pool", "attention-pool"]
VOLUME = torch.zeros(())


def make_head(name, channels=(6, 8, 12), classes=3, **args):
    torch.manual_seed(0)
    spec = find("head", name)
    strides = tuple((2**level,) * 3 for level in range(1, len(channels) + 1))
    return spec.load()(spec.check(args), channels, strides, 1, classes).eval()


def make_maps(width=12, grid=(3, 4, 5)):
    torch.manual_seed(1)
    return [torch.randn(2, width, *grid)]


@pytest.mark.parametrize("name", HEADS)
def test_it_gives_every_scan_its_classes(name):
    assert find("head", name).task == "classification"
    assert make_head(name, classes=5)(make_maps(), VOLUME).shape == (2, 5)


@pytest.mark.parametrize("name", HEADS)
def test_it_does_not_matter_where_in_the_scan_a_cell_lies(name):
    head, (found,) = make_head(name), make_maps()
    shuffled = found.flatten(2)[..., torch.randperm(60)].unflatten(2, (5, 3, 4))
    assert torch.allclose(head([found], VOLUME), head([shuffled], VOLUME), atol=1e-5)


def test_mean_pool_is_a_linear_layer_on_the_normed_mean_of_all_cells():
    head, (found,) = make_head("mean-pool"), make_maps()
    mean = functional.layer_norm(functional.adaptive_avg_pool3d(found, 1).flatten(1), (12,))
    assert torch.allclose(head([found], VOLUME), mean @ head.logits.weight.T + head.logits.bias, atol=1e-5)


def test_attention_pool_is_the_attention_of_torch_from_one_query():
    head, (found,) = make_head("attention-pool", heads=3), make_maps()
    torch.nn.init.normal_(head.query)
    oracle = nn.MultiheadAttention(12, 3, batch_first=True)
    oracle.in_proj_weight.data = torch.cat([head.asked.weight, head.offered.weight]).detach()
    oracle.in_proj_bias.data = torch.cat([head.asked.bias, head.offered.bias]).detach()
    oracle.out_proj.load_state_dict(head.out.state_dict())
    cells, query = head.norm1(found.flatten(2).transpose(1, 2)), head.query.expand(2, 1, 12)
    x = query + oracle(query, cells, cells)[0]
    x = x + head.mlp(head.norm2(x))
    assert torch.allclose(head([found], VOLUME), head.logits(x[:, 0]), atol=1e-5)


def test_attention_pool_can_find_one_cell_among_many():
    """Scans differ in one of 27 cells, which the mean of all cells drowns."""
    generator = torch.Generator().manual_seed(2)
    mark = 4 * torch.randn(12, 1, generator=generator)

    def scans(count):
        maps, labels = torch.randn(count, 12, 27, generator=generator), torch.arange(count) % 2
        where = torch.nn.functional.one_hot(torch.randint(27, (count,), generator=generator), 27)[:, None]
        maps = torch.where(where.bool(), mark * (2 * labels - 1)[:, None, None], maps)
        return [maps.unflatten(2, (3, 3, 3))], labels

    head = make_head("attention-pool", classes=2).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(150):
        maps, labels = scans(64)
        optimiser.zero_grad()
        functional.cross_entropy(head(maps, VOLUME), labels).backward()
        optimiser.step()
    maps, labels = scans(256)
    assert (head.eval()(maps, VOLUME).argmax(1) == labels).float().mean() > 0.9


def test_heads_that_do_not_divide_the_channels_are_refused_with_the_nearest_that_do():
    with pytest.raises(ShapeError, match="has 5 heads, but the coarsest map has 12 channels.* nearest .* is 4"):
        make_head("attention-pool", heads=5)


@pytest.mark.parametrize("name", HEADS)
def test_dropout_is_for_training_alone(name):
    head, maps = make_head(name, dropout=0.5), make_maps()
    assert torch.equal(head(maps, VOLUME), head(maps, VOLUME))
    head.train()
    assert not torch.equal(head(maps, VOLUME), head(maps, VOLUME))
    plain = make_head(name).train()
    assert torch.equal(plain(maps, VOLUME), plain(maps, VOLUME))


@pytest.mark.parametrize("name", HEADS)
def test_an_exported_classifier_agrees_with_float64_on_constant_air_at_any_batch(name):
    torch.manual_seed(0)
    encoder = VisionTransformer(VitArgs(patch=(4, 4, 8), width=24, depth=4, heads=2), 1, (32, 32, 32))
    model = TaskModel(encoder, make_head(name, encoder.channels)).eval()
    run, exact = exported(model, torch.zeros(2, 1, 32, 32, 32)), copy.deepcopy(model).double()
    for batch in (1, 2, 3):
        volumes = torch.cat([constant_air() * (1 + 0.1 * n) for n in range(batch)])
        with torch.no_grad():
            wanted = exact(volumes.double())
        assert run(volumes).shape == (batch, 3)
        assert (run(volumes) - wanted).abs().max() < 1e-4
