"""LossLandscape against losses that are computed by hand, and what it refuses, logs and leaves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import LandscapeResult, LossLandscape
from lightning_hp.functional import random_directions
from tests.training import assert_identical

FEATURES = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
LABELS = (FEATURES.sum(1) > 0).long() + (FEATURES[:, 0] > 1).long()
CHEAP: dict[str, Any] = {"resolution": 3, "num_eigenvalues": 0, "radii": []}


class Points(pl.LightningModule):
    def __init__(self, batch_norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(7)
        norm = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
        self.net = nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(batch_size: int = 24) -> DataLoader[Any]:
    return DataLoader(TensorDataset(FEATURES, LABELS), batch_size)


def fit(landscape: LossLandscape, module: pl.LightningModule | None = None, **options: Any) -> Any:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "log_every_n_steps": 1, **quiet, **options}
    trainer = pl.Trainer(callbacks=[landscape], **settings)
    module = module or Points()
    trainer.fit(module, loader())
    return module


def by_hand(module: Any, batch_norm: str, num_samples: int, move: list[torch.Tensor] | None = None) -> float:
    """The mean loss of a copy, sample by sample weighted, over the first batches."""
    twin = copy.deepcopy(module.net).eval()
    if batch_norm == "batch":
        twin[1].train()
    with torch.no_grad():
        for parameter, direction in zip(twin.parameters(), move or [0.0] * 99, strict=False):
            parameter.add_(direction)
        losses, count = [], 0
        for features, labels in loader():
            losses.append(nn.functional.cross_entropy(twin(features), labels, reduction="none"))
            count += len(labels)
            if count >= num_samples:
                break
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize(("batch_norm", "num_samples"), [("running", 30), ("batch", 64), ("running", 1000)])
def test_each_point_is_the_loss_at_weights_moved_by_hand(batch_norm: Any, num_samples: int):
    landscape = LossLandscape(num_pairs=2, radius=0.5, batch_norm=batch_norm, num_samples=num_samples, **CHEAP)
    module = fit(landscape)
    result = landscape.result
    assert result is not None
    assert result.num_samples == {30: 48, 64: 64, 1000: 64 + 64}[num_samples]  # whole batches, as the steps got them
    directions = random_directions(module.parameters(), 4)
    assert result.x.tolist() == result.y.tolist() == [-0.5, 0.0, 0.5]
    for pair, surface in enumerate(result.surfaces):
        for row, b in enumerate(result.y):
            for column, a in enumerate(result.x):
                first, second = directions[2 * pair : 2 * pair + 2]
                move = [a * one + b * other for one, other in zip(first, second, strict=True)]
                expected = by_hand(module, batch_norm, min(num_samples, 64), move)
                assert surface[row, column] == pytest.approx(expected, rel=1e-5)
    assert result.loss == pytest.approx(by_hand(module, batch_norm, min(num_samples, 64)), rel=1e-6)


def test_in_the_precision_of_the_training():
    landscape = LossLandscape(num_samples=64, **CHEAP)
    module = fit(landscape, precision="bf16-mixed")
    with torch.autocast("cpu", torch.bfloat16):
        expected = by_hand(module, "running", 64)
    assert landscape.result.loss == pytest.approx(expected, rel=1e-6)
    assert landscape.result.loss != pytest.approx(by_hand(module, "running", 64), rel=1e-6)


def test_the_numbers_are_those_of_an_exact_hessian():
    landscape = LossLandscape(num_samples=64, resolution=3, num_eigenvalues=2, radii=[0.2])
    module = fit(landscape, Points(batch_norm=False))
    weights = {name: parameter.detach() for name, parameter in module.net.named_parameters()}
    flat = torch.cat([weight.ravel() for weight in weights.values()])

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split([weight.numel() for weight in weights.values()])
        moved = {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(module.net.eval(), moved, FEATURES), LABELS)

    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat)).flip(0)
    assert landscape.result.eigenvalues == pytest.approx(exact[:2].tolist(), rel=1e-2)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    rise = float(loss(flat + 0.2 * gradient / gradient.norm()) - loss(flat))
    assert landscape.result.rises[0].ascent == pytest.approx(rise, rel=1e-4)


class Recorded(pl.Callback):
    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.weights.append(nn.utils.parameters_to_vector(pl_module.parameters()).detach().clone())


def test_the_path_is_that_of_the_training_in_its_own_plane():
    landscape, recorded = LossLandscape(directions="trajectory", **{**CHEAP, "resolution": 21}), Recorded()
    trainer = pl.Trainer(
        max_epochs=3, callbacks=[landscape, recorded], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module := Points(), loader())
    result = landscape.result
    weights = torch.stack(recorded.weights).double()
    assert result.path.shape == (len(weights), 2)
    assert result.path[-1] == pytest.approx([0, 0], abs=1e-6)
    # Distances in the plane are those of the projections of the weights.
    centred = weights - weights.mean(0)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    plane = ((weights - weights[-1]) @ vectors[:2].T).numpy()
    assert np.abs(result.path) == pytest.approx(np.abs(plane), abs=1e-4)
    shares = (values**2 / (values**2).sum())[:2].tolist()
    assert result.explained_variance == pytest.approx(shares, rel=1e-4)
    # The surface holds the path and the model itself.
    for axis, column in ((result.x, result.path[:, 0]), (result.y, result.path[:, 1])):
        assert axis[0] < column.min()
        assert axis[-1] > column.max()
        assert 0 in axis.tolist()
    assert result.loss == pytest.approx(by_hand(module, "running", 64), rel=1e-6)


def test_a_long_path_is_thinned_evenly():
    landscape = LossLandscape(directions="trajectory", max_path_points=5, **CHEAP)
    fit(landscape, max_epochs=9)  # 27 steps
    assert 3 <= len(landscape.result.path) <= 6


def test_when_it_draws():
    landscape = LossLandscape(2, **CHEAP)
    fit(landscape, max_epochs=5)
    assert list(landscape.results) == [6, 12, 15]
    assert [result.epoch for result in landscape.results.values()] == [1, 3, 4]
    assert landscape.result is landscape.results[15]
    fit(landscape, max_epochs=2)  # another fit
    assert list(landscape.results) == [6]


def test_what_is_logged(tmp_path: Path):
    landscape = LossLandscape(resolution=3, radii=[0.1], html=True)
    loggers = [TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="csv")]
    fit(landscape, logger=loggers)
    board = EventAccumulator(loggers[0].log_dir, size_guidance={"images": 0}).Reload()
    assert board.Tags()["images"] == ["loss_landscape/surface"]
    assert board.Tags()["tensors"] == ["loss_landscape/numbers/text_summary"]
    names = {"loss", "eigenvalue", "rise_ascent_0.1", "rise_mean_0.1", "rise_worst_0.1"}
    assert {f"loss_landscape/{name}" for name in names} <= set(board.Tags()["scalars"])
    assert board.Scalars("loss_landscape/loss")[0].value == pytest.approx(landscape.result.loss)
    for logger in loggers:
        page = (Path(logger.log_dir) / "loss_landscape_step_6.html").read_text()
        assert "surface" in page
        assert "cdn.plot.ly" not in page.split("</script>")[0]  # drawn without a network
    assert (Path(loggers[1].log_dir) / "loss_landscape" / "surface_step_6.png").exists()


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_it_draws_restores_the_module(kind: type[BaseException]):
    class Failing(Points):
        calls = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            output = super().training_step(batch, batch_idx)
            if not self.training:
                Failing.calls += 1
                if Failing.calls == 7:
                    raise kind("a bug")
            return output

    module, seen = Failing(), {}

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.update(copy.deepcopy(pl_module.state_dict()))
            seen["random"] = torch.get_rng_state()

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Look(), LossLandscape(1, num_samples=20, **CHEAP)],
    )  # fmt: skip
    with pytest.raises((kind, SystemExit)):
        trainer.fit(module, loader())
    assert_identical({**module.state_dict(), "random": torch.get_rng_state()}, seen, "after the error")
    assert module.training


def test_a_budget_ends_with_what_is_there(tmp_path: Path):
    landscape = LossLandscape(num_samples=64, budget=1e-9, **{**CHEAP, "resolution": 9})
    module = fit(landscape)
    assert landscape.result.notes == ("1 of 81 points within 1e-09 s.",)
    assert landscape.result.loss == pytest.approx(by_hand(module, "running", 64), rel=1e-6)
    assert np.isfinite(landscape.result.surfaces[0]).sum() == 2  # the first corner and the model itself
    landscape.result.plot().savefig(tmp_path / "figure.png")


def test_coarse_is_close_to_all_points():
    results = []
    for coarse in (False, True):
        landscape = LossLandscape(num_samples=64, coarse=coarse, **{**CHEAP, "resolution": 13})
        fit(landscape)
        results.append(landscape.result.surfaces[0])
    assert results[1][::2, ::2] == pytest.approx(results[0][::2, ::2])
    assert np.abs(results[1] / results[0] - 1).mean() < 0.02


def test_without_a_second_derivative_there_is_a_note_instead_of_eigenvalues():
    class Fused(Points):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.multi_margin_loss(self.net(batch[0]), batch[1])  # torch derives it once

    landscape = LossLandscape(resolution=3, radii=[0.1])
    fit(landscape, Fused())
    assert landscape.result.eigenvalues is None
    assert "No eigenvalues: " in landscape.result.notes[0]
    assert "not implemented" in landscape.result.notes[0]
    assert landscape.result.rises[0].worst >= landscape.result.rises[0].mean


def test_a_diverged_model_has_a_surface_and_a_note(tmp_path: Path):
    class Diverged(Points):
        def on_train_epoch_end(self) -> None:
            with torch.no_grad():
                self.net[-1].weight.fill_(float("nan"))

    landscape = LossLandscape(resolution=3)
    fit(landscape, Diverged())
    assert np.isnan(landscape.result.loss)
    assert landscape.result.eigenvalues is None
    assert "not finite" in landscape.result.notes[0]
    landscape.result.plot().savefig(tmp_path / "figure.png")


def test_a_training_that_goes_nowhere_has_no_path():
    class Frozen(Points):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    landscape = LossLandscape(directions="trajectory", **CHEAP)
    with pytest.warns(UserWarning, match="no landscape, because the path of the training spans no plane"):
        fit(landscape, Frozen())
    assert landscape.result is None


def test_refusals_come_before_the_training():
    class Manual(Points):
        automatic_optimization = False

    for module, word in ((Manual(), "Give a function of module and batch as `loss`"), (Lazy(), "lazy ones")):
        with pytest.raises(MisconfigurationException, match=word):
            fit(LossLandscape(), module)


class Lazy(Points):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.LazyLinear(3)


class Silent(Points):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if self.training else None


class TwoHeads(Points):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits, auxiliary = (self.net(batch[0]),) * (2 if self.training else 1)
        return nn.functional.cross_entropy(logits + auxiliary, batch[1])


class Draws(Points):
    def on_train_start(self) -> None:
        self.numbers = iter(range(10_000))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)["loss"] * (1 + next(self.numbers) % 2)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Silent, "`training_step` to return a loss for each batch"),
        (TwoHeads, "in evaluation mode, but `training_step` raised ValueError: not enough values"),
        (Draws, "module whose state can be restored, but it holds .*iterator"),
    ],
)
def test_a_step_that_cannot_be_evaluated_is_refused_before_the_first_step(module: Any, message: str):
    built = module()
    before = copy.deepcopy(built.state_dict())
    with pytest.raises(MisconfigurationException, match=message):
        fit(LossLandscape(**CHEAP), built)
    assert_identical(dict(built.state_dict()), dict(before), "weights")


def test_a_step_may_write_to_its_batch():
    class Writes(Points):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].add_(1.0)
            return super().training_step(batch, batch_idx)

    landscape = LossLandscape(num_samples=64, **CHEAP)
    module = fit(landscape, Writes())
    net = module.net.eval()
    expected = nn.functional.cross_entropy(net(FEATURES + 1), LABELS)
    assert landscape.result.loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_may_take_derivatives():
    class Penalty(Points):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            features = batch[0].clone().requires_grad_()
            gradient = torch.autograd.grad(self.net(features).sum(), features, create_graph=True)[0]
            return gradient.square().mean()

    landscape = LossLandscape(num_samples=64, resolution=3, radii=[0.1])
    module = fit(landscape, Penalty(batch_norm=False))
    net = module.net.eval()
    features = FEATURES.clone().requires_grad_()
    expected = torch.autograd.grad(net(features).sum(), features)[0].square().mean()
    assert landscape.result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert landscape.result.rises[0].ascent > 0


def test_frozen_weights_are_stated():
    module = Points(batch_norm=False)
    module.net[0].requires_grad_(False)
    landscape = LossLandscape(num_samples=24, **CHEAP)
    fit(landscape, module)
    assert landscape.result.notes == ("30 of 51 weights are frozen and do not move.",)


def test_negative_losses_are_drawn(tmp_path: Path):
    class Density(Points):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)["loss"] - 10

    landscape = LossLandscape(num_samples=24, resolution=3, num_eigenvalues=0)
    fit(landscape, Density())
    landscape.result.plot().savefig(tmp_path / "figure.png")
    landscape.result.to_html()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs"),
        ({"directions": "gradient"}, ValueError, "directions"),
        ({"resolution": 20}, ValueError, "odd `resolution`"),
        ({"resolution": 5, "coarse": True}, ValueError, "7 or more with `coarse`"),
        ({"num_pairs": 2, "directions": "hessian"}, ValueError, "`num_pairs` of 1"),
        ({"radius": 0}, ValueError, "radius"),
        ({"radii": [0.1, -1]}, ValueError, r"radii\[1\]"),
        ({"radii": 0.1}, TypeError, "radii"),
        ({"budget": "long"}, TypeError, "budget"),
        ({"loss": 3}, TypeError, "loss"),
        ({"max_path_points": 2}, ValueError, "max_path_points"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        LossLandscape(**arguments)


def test_directions_of_the_largest_curvature():
    landscape = LossLandscape(directions="hessian", num_samples=64, resolution=3, radius=0.01, radii=[])
    fit(landscape, Points(batch_norm=False))
    result: LandscapeResult | None = landscape.result
    assert result is not None
    middle = result.surfaces[0][1]
    curvature = (middle[0] - 2 * middle[1] + middle[2]) / 0.01**2
    assert curvature == pytest.approx(result.eigenvalues[0], rel=0.2)


def test_fast_dev_run_draws_a_small_one():
    landscape = LossLandscape(num_pairs=3, resolution=21)
    fit(landscape, fast_dev_run=True)
    assert [surface.shape for surface in landscape.result.surfaces] == [(3, 3)]
