"""When SAM acts, on what, and when it fails."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn

import lightning_hp.functional as hpf


def radii(num: int, **kwargs: Any) -> list[float]:
    return [hpf.perturbation_radius(step, 0.4, num_training_steps=num, **kwargs) for step in range(num)]


def test_it_starts_late_acts_every_so_often_and_warms_up() -> None:
    assert radii(6) == [0.4] * 6
    assert radii(6, every=2) == [0.4, 0, 0.4, 0, 0.4, 0]
    assert radii(10, start=0.7) == [0.0] * 7 + [0.4] * 3
    assert radii(5, warmup=0.8) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert radii(10, start=0.5, warmup=0.2, every=2) == pytest.approx([0, 0, 0, 0, 0, 0, 0.4, 0, 0.4, 0])
    assert radii(4, warmup=1.0)[-1] == 0.4, "the full radius is reached in the last step"


def test_the_length_is_needed_for_shares_only() -> None:
    assert hpf.perturbation_radius(10**9, 0.1) == 0.1
    with pytest.raises(ValueError, match="Expected the length of the training"):
        hpf.perturbation_radius(0, 0.1, warmup=0.1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"step": -1, "rho": 0.1}, "`step`"),
        ({"step": 0, "rho": math.inf}, "`rho`"),
        ({"step": 0, "rho": 0.1, "every": 1.5}, "`every`"),
        ({"step": 0, "rho": 0.1, "start": -0.1}, "`start`"),
        ({"step": 0, "rho": 0.1, "warmup": 1.1}, "`warmup`"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {message}"):
        hpf.perturbation_radius(**kwargs)


class MyRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(nn.init.ones_(nn.Parameter().new_empty(3)))


def test_normalisation_layers_are_known_by_what_they_are_not_by_their_attributes_name() -> None:
    """A peer goes by the parameter's name, and misses `1.weight` of a Sequential."""
    norms = [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm1d(3, affine=True), MyRMSNorm()]
    net = nn.Sequential(nn.Linear(3, 3), *norms, nn.LayerNorm(3, elementwise_affine=False))
    expected = [id(p) for norm in norms for p in norm.parameters()]
    assert [id(p) for p in hpf.norm_parameters(net)] == expected
    assert hpf.norm_parameters(nn.Sequential(nn.Linear(3, 3))) == []
    assert len(hpf.norm_parameters(nn.ModuleList([norms[1], norms[1]]))) == 2, "a shared layer counts once"


def test_a_layer_that_is_named_so_but_holds_a_matrix_is_none() -> None:
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
    """It is fine-tuned: its loss has little to fall by."""
    assert not hpf.is_stuck([0.02, 0.021], 0.0205, num_outputs=10)
    assert hpf.is_stuck([0.02, 0.021], 2.31, num_outputs=10), "it has been thrown back to guessing"
    assert hpf.is_stuck([0.02, 0.021], 8.0, num_outputs=10), "and beyond"


def test_stuck_is_where_it_began_or_at_guessing() -> None:
    guess = math.log(10)
    assert hpf.is_stuck([2.4, 2.2], 2.28)
    assert not hpf.is_stuck([2.4, 2.2], 1.9)
    assert hpf.is_stuck([7.0], guess * 1.01, num_outputs=10)
    assert not hpf.is_stuck([7.0], guess * 1.01)
    assert not hpf.is_stuck([700.0], 90.0, num_outputs=10), "a regression with ten outputs that learns"
    assert not hpf.is_stuck([2.4], 0.01, num_outputs=1)
    assert not hpf.is_stuck([], 5.0)
    assert hpf.is_stuck([], 2.3, num_outputs=10)
