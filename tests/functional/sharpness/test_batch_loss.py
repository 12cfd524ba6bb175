"""The mean loss over batches, against one batch of all samples and loops by hand; and that no trace is left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf
from tests.functional.sharpness.small_nets import batches, loss_of, net, state_of


@torch.no_grad()
def by_hand(model: nn.Module, train: type[nn.Module] | None, *sizes: int) -> float:
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if train is not None and isinstance(module, train):
            module.train()
    total = sum(nn.functional.cross_entropy(model(x), y, reduction="sum") for x, y in batches(*sizes))
    return float(total) / sum(sizes)


@pytest.mark.parametrize(("mode", "train"), [("running", None), ("batch", nn.BatchNorm2d)])
def test_batches_are_weighted_by_their_samples(mode: str, train: type[nn.Module] | None) -> None:
    model = net()
    model.train()
    loss = loss_of(model, 10, 6, 3, batch_norm=mode)
    assert loss.num_samples == 19
    before = state_of(model)
    with torch.no_grad():
        assert float(loss()) == pytest.approx(by_hand(model, train, 10, 6, 3), rel=1e-5)
        assert float(sum(part() for part in loss.parts())) == pytest.approx(float(loss()), rel=1e-6)
    assert state_of(model) == before


def test_the_two_modes_differ_and_a_mixed_model_keeps_its_flags() -> None:
    model = net()
    model[1].eval()
    before = state_of(model)
    with torch.no_grad():
        assert float(loss_of(model, batch_norm="batch")()) != float(loss_of(model)())
    assert state_of(model) == before


def test_one_batch_is_the_loss_function_itself() -> None:
    model, ((x, y),) = net(), batches(12)
    model.eval()
    assert torch.equal(
        hpf.BatchLoss(model, [(x, y)], nn.functional.cross_entropy)(), nn.functional.cross_entropy(model(x), y)
    )


def test_flags_and_statistics_are_restored_after_an_error() -> None:
    model = net()
    model.train()
    before = state_of(model)

    def fails(output: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("the loss failed")

    with pytest.raises(RuntimeError, match="the loss failed"):
        hpf.BatchLoss(model, batches(4), fails, batch_norm="batch")()
    assert state_of(model) == before


class OwnNorm(nn.Module):
    """Keeps running statistics by another class's rule: it replaces the buffer instead of writing to it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.running_mean
        self.running_mean = 0.9 * self.running_mean + 0.1 * x.mean().detach()
        return x - x.mean()


def test_a_norm_layer_of_another_library_uses_its_batch_and_keeps_its_buffer() -> None:
    model = nn.Sequential(OwnNorm(), nn.Flatten(), nn.Linear(36, 3))
    before = state_of(model)
    with torch.no_grad():
        found = float(loss_of(model, 8, batch_norm="batch")())
        assert found == pytest.approx(by_hand(model, OwnNorm, 8), rel=1e-6)
    assert state_of(model) == before


def test_a_gradient_through_batch_statistics_is_that_of_a_training_step() -> None:
    model = net(dropout=False)
    loss = loss_of(model, 16, batch_norm="batch")
    found = torch.autograd.grad(loss(), list(model.parameters()))
    twin = copy.deepcopy(model).train()
    ((x, y),) = batches(16)
    nn.functional.cross_entropy(twin(x), y).backward()
    for gradient, parameter in zip(found, twin.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_wrong_batches_get_a_sentence() -> None:
    model, f = net(), nn.functional.cross_entropy
    for bad, error, words in (
        ([], ValueError, "at least one, but got none"),
        ([torch.ones(2)], TypeError, r"batches\[0\]` to be a pair"),
        (torch.ones(2, 2), TypeError, "pairs of inputs and targets"),
        ([(torch.ones(2), torch.tensor(1))], TypeError, "targets with a length"),
        ([(torch.ones(0), torch.ones(0))], ValueError, "hold samples"),
    ):
        with pytest.raises(error, match=f"Expected.*{words}"):
            hpf.BatchLoss(model, bad, f)
    with pytest.raises(ValueError, match="one of 'running', 'batch'"):
        hpf.BatchLoss(model, batches(2), f, batch_norm="no")
