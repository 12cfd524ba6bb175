"""compare_landscapes against losses by hand; results, checkpoints and models; what cannot be compared."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_hp import LandscapeComparison, compare_landscapes
from lightning_hp.functional import random_directions

FEATURES = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
LABELS = (FEATURES.sum(1) > 0).long()
DATA = TensorDataset(FEATURES, LABELS)
CHEAP: dict[str, Any] = {"resolution": 3, "num_eigenvalues": 0, "radii": [0.1], "enable_progress_bar": False}


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2))


class Module(pl.LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = model(seed)

    def forward(self, features: Any) -> Any:
        return self.net(features)


def accuracy(module: Any) -> float:
    assert not module.training
    return (module(FEATURES).argmax(1) == LABELS).float().mean()


def test_models_are_measured_alike_and_left_as_they_were():
    models = {"first": model(0), "second": model(1)}
    before = copy.deepcopy({name: one.state_dict() for name, one in models.items()})
    random = torch.get_rng_state()
    compared = compare_landscapes(models, DataLoader(DATA, 16), metrics={"accuracy": accuracy}, **CHEAP)
    assert torch.equal(torch.get_rng_state(), random)
    for name, one in models.items():
        assert one.training
        assert all(torch.equal(value, before[name][key]) for key, value in one.state_dict().items())
        result = compared.results[name]
        first, second = random_directions(one.parameters(), 2)
        twin = copy.deepcopy(one).eval()
        with torch.no_grad():
            for parameter, left, right in zip(twin.parameters(), first, second, strict=True):
                parameter.add_(left - right)
            expected = nn.functional.cross_entropy(twin(FEATURES), LABELS).item()
        assert result.surfaces[0][0, 2] == pytest.approx(expected, rel=1e-5)
        assert result.num_samples == 40
        assert compared.metrics[name]["accuracy"] == pytest.approx(float(accuracy(copy.deepcopy(one).eval())))
    header, rows = compared.table()
    assert header == ["quantity", "first", "second"]
    assert [row[0] for row in rows] == ["accuracy", "loss", "rise_ascent_0.1", "rise_mean_0.1", "rise_worst_0.1"]
    assert len(str(compared).splitlines()) == 1 + len(rows)


def test_a_checkpoint_is_the_model_that_it_was_saved_from(tmp_path: Path):
    module = Module(1)
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = Module(2)
    before = copy.deepcopy(other.state_dict())
    compared = compare_landscapes(
        {"model": module, "checkpoint": tmp_path / "one.ckpt"}, DataLoader(DATA, 16), module=other, **CHEAP
    )
    surfaces = [result.surfaces[0] for result in compared.results.values()]
    assert np.array_equal(*surfaces)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no 'state_dict'"):
        compare_landscapes({"a": tmp_path / "other.pt"}, DATA, module=other, **CHEAP)
    torch.save({"state_dict": model().state_dict()}, tmp_path / "unfit.ckpt")
    with pytest.raises(ValueError, match="fits `module`"):
        compare_landscapes({"a": tmp_path / "unfit.ckpt"}, DATA, module=other, **CHEAP)


def test_a_comparison_through_json_and_back():
    metrics = {"accuracy": lambda module: 0.5, "unknown": lambda module: math.nan}
    compared = compare_landscapes({"a": model(0), "b": model(1)}, DataLoader(DATA, 16), metrics=metrics, **CHEAP)
    values = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    back = LandscapeComparison.from_dict({**values, "colour": "blue"})
    assert repr(back.table()) == repr(compared.table())
    assert all(np.array_equal(back.results[name].surfaces, compared.results[name].surfaces) for name in "ab")
    with pytest.raises(ValueError, match="which include results"):
        LandscapeComparison.from_dict({"metrics": {}})
    for wrong in ({"results": []}, {"metrics": {"a": 3}}, {"metrics": {"a": {"x": "y"}}}, {"results": {"a": 1}}):
        with pytest.raises(TypeError, match=r"^Expected "):
            LandscapeComparison.from_dict({**values, **wrong})


def test_results_are_compared_if_they_were_measured_alike():
    loader = DataLoader(DATA, 16)
    one = compare_landscapes({"a": model(0)}, loader, **CHEAP).results["a"]
    two = compare_landscapes({"b": model(1)}, loader, **CHEAP).results["b"]
    compared = compare_landscapes({"a": one, "b": two})
    assert isinstance(compared, LandscapeComparison)
    assert compared.results["b"] is two
    changed = {
        "seed": 1, "num_samples": 9, "batch_norm": "batch", "x": 2 * one.x, "data": "others", "loss_name": "mse",
        "rises": (),
    }  # fmt: skip
    for name, value in changed.items():
        with pytest.raises(ValueError, match={"x": "same points", "rises": "radii"}.get(name, name)):
            compare_landscapes({"a": one, "b": replace(two, **{name: value})})
    with pytest.raises(ValueError, match="no `data`"):
        compare_landscapes({"a": one}, loader)


@pytest.mark.parametrize(
    ("models", "data", "options", "error", "message"),
    [
        ([model()], DATA, {}, TypeError, "`models` to be a dict"),
        ({}, DATA, {}, ValueError, "got none"),
        ({"a": 3}, DATA, {}, TypeError, r"models\['a'\]"),
        ({"a": "x.ckpt"}, DATA, {}, ValueError, "Expected `module`"),
        ({"a": model()}, None, {}, ValueError, "Expected `data`"),
        ({"a": model()}, [], {}, ValueError, "at least one, but got none"),
        ({"a": model()}, [FEATURES], {}, TypeError, r"`data\[0\]` to be a pair of inputs and targets"),
        ({"a": model()}, [(FEATURES, torch.rand(40, 1))], {}, ValueError, "Give another loss as `loss_function`"),
        (
            {"a": model()},
            [(FEATURES[:, :3], LABELS)],
            {},
            ValueError,
            r"a loss of models\['a'\] on `data`, but it raised",
        ),
        ({"a": model()}, DATA, {"metrics": {"loss": len}}, ValueError, "does not have already"),
        ({"a": model()}, [(FEATURES, LABELS)], {"metrics": {"b": lambda m: "x"}}, TypeError, "returns a number"),
        ({"a": model()}, DATA, {"num_eigenvalues": 101}, ValueError, "num_eigenvalues"),
        ({"a": model()}, DATA, {"metrics": {"accuracy": 1}}, TypeError, r"metrics\['accuracy'\]"),
        ({"a": model()}, DATA, {"resolution": 4}, ValueError, "odd `resolution`"),
        ({"a": nn.ReLU()}, [(FEATURES, LABELS)], {}, ValueError, "weights that require gradients"),
    ],
)
def test_wrong_arguments(models: Any, data: Any, options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        compare_landscapes(models, data, **{**CHEAP, **options})


def test_the_figure_has_one_scale_and_the_page_all_surfaces(tmp_path: Path):
    models = {"first": model(0), "second": model(1)}
    compared = compare_landscapes(models, DataLoader(DATA, 16), num_pairs=2, **CHEAP)
    figure = compared.plot()
    figure.savefig(tmp_path / "figure.png")
    contours = [ax for ax in figure.axes if ax.get_xlabel() == "first direction"]
    filled = [c for ax in contours for c in ax.collections if getattr(c, "filled", False)]
    norms = {(c.norm.vmin, c.norm.vmax) for c in filled}
    assert len(filled) == 2
    everything = np.concatenate([result.surfaces[0].ravel() for result in compared.results.values()])
    assert len(norms) == 1
    assert next(iter(norms)) == pytest.approx((everything.min(), everything.max()))
    page = compared.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page
    assert page.count('"type":"surface"') >= 2


class Counts(nn.Module):
    """Writes to itself and to its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)
        self.embedding = nn.Embedding(3, 4, max_norm=0.1)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(1)
        features.add_(self.embedding(torch.ones(len(features), dtype=torch.long)))
        return self.layer(features) * len(self.seen)


def test_a_model_that_writes_to_itself_and_its_input_is_restored():
    counts = Counts()
    before = copy.deepcopy(counts.state_dict())
    batches = [(FEATURES.clone(), LABELS)]
    compared = compare_landscapes({"first": counts, "again": counts}, batches, **CHEAP)
    assert np.array_equal(compared.results["first"].surfaces[0], compared.results["again"].surfaces[0])
    assert all(torch.equal(value, before[key]) for key, value in counts.state_dict().items())
    assert counts.seen == []
    assert torch.equal(batches[0][0], FEATURES)
    expected = nn.functional.cross_entropy(copy.deepcopy(counts)(FEATURES.clone()), LABELS)
    assert compared.results["first"].loss == pytest.approx(expected.item(), rel=1e-5)


def test_targets_may_be_several_tensors():
    layer = nn.Linear(4, 2)
    batches = [(FEATURES[:30], (LABELS[:30], LABELS[:30])), (FEATURES[30:], {"y": LABELS[30:]})]

    def loss(output: torch.Tensor, targets: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(output, targets["y"] if isinstance(targets, dict) else targets[0])

    result = compare_landscapes({"a": layer}, batches, loss_function=loss, **CHEAP).results["a"]
    assert result.num_samples == 40
    assert result.loss == pytest.approx(nn.functional.cross_entropy(layer(FEATURES), LABELS).item(), rel=1e-5)


def test_weights_that_cannot_move_are_stated():
    layer = nn.Linear(4, 2)
    nn.init.zeros_(layer.weight)
    result = compare_landscapes({"a": layer}, [(FEATURES, LABELS)], **CHEAP).results["a"]
    assert "No weight moves" in result.notes[0]
