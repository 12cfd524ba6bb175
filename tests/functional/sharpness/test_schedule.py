"""When SAM acts and with which radius, what its normalisation layers are, and how a radius too large shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lightning_hp.functional as hpf


def radii(num: int, **kwargs: Any) -> list[float]:
    return [hpf.perturbation_radius(step, 0.4, num_training_steps=num, **kwargs) for step in range(num)]


def test_start_interval_and_warmup() -> None:
    assert radii(6) == [0.4] * 6
    assert radii(6, interval=2) == [0.4, 0, 0.4, 0, 0.4, 0]
    assert radii(10, start=0.7) == [0.0] * 7 + [0.4] * 3
    assert radii(5, warmup=0.8) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert radii(10, start=0.5, warmup=0.2, interval=2) == pytest.approx([0, 0, 0, 0, 0, 0, 0.4, 0, 0.4, 0])
    assert radii(4, warmup=1.0)[-1] == 0.4, "the full radius is reached in the last step"


def test_the_length_is_needed_only_for_start_and_warmup() -> None:
    assert hpf.perturbation_radius(10**9, 0.1) == 0.1
    with pytest.raises(ValueError, match="`num_training_steps` to be the length of the training"):
        hpf.perturbation_radius(0, 0.1, warmup=0.1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"step": -1, "rho": 0.1}, "`step`"),
        ({"step": 0, "rho": math.inf}, "`rho`"),
        ({"step": 0, "rho": 0.1, "interval": 0}, "`interval`"),
        ({"step": 0, "rho": 0.1, "start": -0.1}, "`start`"),
        ({"step": 0, "rho": 0.1, "start": 1}, "`start`"),
        ({"step": 0, "rho": 0.1, "warmup": 1.1}, "`warmup`"),
        ({"step": 0, "rho": 0.1, "num_training_steps": 0}, "`num_training_steps`"),
        ({"step": 0, "rho": 0.1, "warmup": 0.1, "num_training_steps": 10**400}, "`num_training_steps`"),
        ({"step": 0, "rho": 0.1, "num_training_steps": math.nan}, "`num_training_steps`"),
    ],
)
def test_arguments_of_a_wrong_value(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {message}"):
        hpf.perturbation_radius(**kwargs)


@pytest.mark.parametrize("name", ["step", "rho", "interval", "start", "warmup", "num_training_steps"])
@pytest.mark.parametrize("bad", [None, "1", b"1", True, 1j, [], {}, object(), torch.ones(()), np.ones(1)])
def test_arguments_of_a_wrong_type(name: str, bad: Any) -> None:
    with pytest.raises(TypeError, match=f"Expected `{name}`"):
        hpf.perturbation_radius(**{"step": 0, "rho": 0.1, name: bad})


def test_numbers_of_numpy_become_pythons() -> None:
    radius = hpf.perturbation_radius(np.int64(0), np.float32(0.5), interval=np.int32(2))
    assert type(radius) is float
    assert radius == 0.5
    assert hpf.perturbation_radius(2**53, 0.5, warmup=0.5, num_training_steps=4) == 0.5
    with pytest.raises(ValueError, match=r"`step` to be an int >= 0 and at most 2\*\*53"):
        hpf.perturbation_radius(10**400, 0.5, warmup=0.5, num_training_steps=4)


@pytest.mark.parametrize("bad", [None, 1.0, "12", ["1"], object(), [1j]])
def test_losses_of_a_wrong_type_or_shape(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="Expected `first_losses` to be losses of shape"):
        hpf.is_stuck(bad, 1.0)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"first_losses": [math.nan]}, ValueError),
        ({"first_losses": [[1.0]]}, ValueError),
        ({"loss": math.nan}, ValueError),
        ({"loss": "1"}, TypeError),
        ({"loss": None}, TypeError),
        ({"num_classes": 0}, ValueError),
        ({"num_classes": 2.0}, TypeError),
        ({"num_classes": True}, TypeError),
    ],
)
def test_other_arguments_of_is_stuck(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"Expected `{next(iter(kwargs))}`"):
        hpf.is_stuck(**{"first_losses": [1.0], "loss": 1.0, **kwargs})


class MyRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(nn.init.ones_(nn.Parameter().new_empty(3)))


def test_normalisation_layers_are_found_by_their_type_not_by_the_name_of_the_attribute() -> None:
    """By the parameter's name `1.weight` of a Sequential would be missed."""
    norms = [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm1d(3, affine=True), MyRMSNorm()]
    net = nn.Sequential(nn.Linear(3, 3), *norms, nn.LayerNorm(3, elementwise_affine=False))
    expected = [id(p) for norm in norms for p in norm.parameters()]
    assert [id(p) for p in hpf.norm_parameters(net)] == expected
    assert hpf.norm_parameters(nn.Sequential(nn.Linear(3, 3))) == []
    assert len(hpf.norm_parameters(nn.ModuleList([norms[1], norms[1]]))) == 2, "a shared layer counts once"


def test_a_layer_whose_class_is_called_norm_but_holds_a_matrix_is_none() -> None:
    class NormedLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(nn.init.ones_(nn.Parameter().new_empty(3, 3)))

    class LayerNorm2d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(nn.init.ones_(nn.Parameter().new_empty(1, 3, 1, 1)))

    layer_norm = LayerNorm2d()
    assert hpf.norm_parameters(nn.Sequential(NormedLinear(), layer_norm)) == [layer_norm.weight]


def test_a_training_that_began_far_below_guessing_is_not_stuck() -> None:
    """It is fine-tuning, where the loss has little left to fall."""
    assert not hpf.is_stuck([0.02, 0.021], 0.0205, num_classes=10)
    assert hpf.is_stuck([0.02, 0.021], 2.31, num_classes=10), "it has risen to the loss of guessing"
    assert hpf.is_stuck([0.02, 0.021], 8.0, num_classes=10), "and beyond"


def test_stuck_is_where_it_began_or_at_guessing() -> None:
    guess = math.log(10)
    assert hpf.is_stuck([2.4, 2.2], 2.28)
    assert not hpf.is_stuck([2.4, 2.2], 1.9)
    assert hpf.is_stuck([7.0], guess * 1.01, num_classes=10)
    assert not hpf.is_stuck([7.0], guess * 1.01)
    assert not hpf.is_stuck([700.0], 90.0, num_classes=10), "a regression with ten outputs that learns"
    assert not hpf.is_stuck([2.4], 0.01, num_classes=1)
    assert not hpf.is_stuck([], 5.0)
    assert hpf.is_stuck([], 2.3, num_classes=10)
