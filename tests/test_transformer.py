"""The attention that transformers share: in every precision and for any number of tokens the same mix."""

import pytest
import torch

from mimzoo.transformer import FEW_TOKENS, Attention, attend


@pytest.mark.parametrize("count", [5, 64, FEW_TOKENS, FEW_TOKENS + 1])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_attention_and_its_gradients_are_those_of_its_formula(count, kind):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, count, 16, dtype=kind, requires_grad=True) for _ in range(3))
    exact = [each.detach().double().requires_grad_() for each in (q, k, v)]
    wanted = ((exact[0] @ exact[1].mT) / 4).softmax(-1) @ exact[2]
    found = attend(q, k, v)
    assert found.dtype == kind
    given = torch.randn(wanted.shape)
    pairs = zip(
        [found, *torch.autograd.grad(found, (q, k, v), given.to(kind))],
        [wanted, *torch.autograd.grad(wanted, exact, given.double())],
        strict=True,
    )
    for one, other in pairs:
        error = (one.double() - other).norm() / other.norm()
        assert error < (1e-5 if kind == torch.float32 else 2e-2)


def test_autocast_changes_attention_by_rounding_alone():
    torch.manual_seed(0)
    attention, tokens = Attention(48, 3), torch.randn(2, 30, 48)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(tokens)
    assert (rounded - attention(tokens)).norm() < 2e-2 * attention(tokens).norm()
