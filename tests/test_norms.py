"""Norms: torch's own computation, on visible positions alone, and as accurate once exported."""

import pytest
import torch
from graphs import constant_air, exported
from torch.nn import functional

from mimzoo.graphs import graph_of
from mimzoo.norms import InstanceNorm, Norm


@pytest.mark.parametrize(("kind", "groups"), [("instance", 16), ("group", 2)])
def test_the_norm_is_group_norm_in_both_forms(kind, groups):
    torch.manual_seed(0)
    norm, x = Norm(kind, 16), torch.randn(2, 16, 5, 6, 7) * 3 + 2
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    wanted = functional.group_norm(x, groups, norm.weight, norm.bias)
    assert torch.equal(norm(x), wanted)
    assert torch.allclose(norm.explicit(x), wanted, atol=1e-5)


@pytest.mark.parametrize(("kind", "groups"), [("instance", 16), ("group", 2)])
def test_with_visible_positions_the_norm_is_that_of_them_alone(kind, groups):
    torch.manual_seed(0)
    norm, x = Norm(kind, 16), torch.randn(1, 16, 4, 6, 5) * 3 + 2
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    visible = torch.zeros(1, 1, 4, 6, 5, dtype=torch.bool)
    visible[..., :2, :, 1:] = True
    found = norm(torch.where(visible, x, 1e6), visible)
    wanted = functional.group_norm(x[..., :2, :, 1:], groups, norm.weight, norm.bias)
    assert torch.allclose(found[..., :2, :, 1:], wanted, atol=1e-4)
    assert not found.masked_select(~visible).any()


def test_instance_norm_without_scale_and_shift_is_that_of_torch():
    x = torch.randn(2, 16, 5, 6, 7) * 3 + 2
    assert torch.allclose(InstanceNorm()(x), functional.instance_norm(x), atol=1e-5)


def test_group_norm_falls_back_to_one_channel_a_group_where_eight_do_not_fit():
    assert Norm("group", 12).groups == 12


@pytest.fixture(scope="module")
def features():
    """What the first convolution makes of a volume that is mostly air."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(1, 16, 3, padding=1)
    return convolution(constant_air(64)).detach()


class Plain(torch.nn.Module):
    def forward(self, x):
        return functional.instance_norm(x)


@pytest.mark.parametrize(("norm", "groups"), [(Norm("instance", 16), 16), (Norm("group", 16), 2), (InstanceNorm(), 16)])
def test_the_exported_norm_is_as_accurate_as_torch_on_constant_air(features, norm, groups):
    norm.eval()
    exact = functional.group_norm(features.double(), groups)
    for run in (exported(norm, features), norm):
        assert (run(features) - exact).abs().max() < 2e-5


def test_the_exported_instance_norm_of_torch_is_not_which_is_why_there_is_another(features):
    """Once this fails, ONNX Runtime has become accurate and `Norm.explicit` can go."""
    exact = functional.instance_norm(features.double())
    assert (exported(Plain(), features)(features) - exact).abs().max() > 2e-4


def test_openvino_does_not_make_one_sum_of_the_means():
    """It did, of maps as convolutions leave them, and was off by 0.04."""
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(1, 16, 3, padding=1), Norm("instance", 16), torch.nn.Conv3d(16, 16, 3, padding=1)]
    module, volume = torch.nn.Sequential(*layers, Norm("instance", 16)).eval(), constant_air(64)
    graph = openvino.Core().read_model(graph_of(module, volume.repeat(2, 1, 1, 1, 1)).SerializeToString())
    run = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(run([volume.numpy()])[0])
    assert (found - module.double()(volume.double())).abs().max() < 2e-4


def test_a_single_cell_of_a_single_sample_is_normed_to_its_shift():
    norm = Norm("instance", 4)
    norm.bias.data = torch.arange(4.0)
    assert torch.allclose(norm(torch.randn(1, 4, 1, 1, 1)).flatten(), torch.arange(4.0), atol=1e-4)
