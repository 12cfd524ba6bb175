"""How sharp the loss is at the trained weights: the largest eigenvalue of its Hessian, and its rise at two radii."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.sam_quality.arms import ARMS
from benchmarks.sam_quality.run import SEEDS, Results, weights_path
from benchmarks.sam_quality.tasks import TASKS, Task
from benchmarks.sam_quality.training import training_part
from lightning_hp import functional as hpf

#: Norms of the perturbations, in the unit of the weights.
RADII = (0.05, 0.5)

ASCENT_STEPS = 5

#: Training samples, and seeds, for which the numbers are computed.
EXTENT = (100, 2)

#: The same, and the arms, of the tasks in which one product with the Hessian takes long.
LARGE = {"photos-pretrained": (64, 1), "news-encoder": (32, 1)}
LARGE_ARMS = ("base", "base, weight decay tuned", "SAM", "SAM, start='decay'")


class WithInputs(nn.Module):
    """A network that takes all inputs as one tuple."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        logits: torch.Tensor = self.net(*inputs)
        return logits


def measure(task: Task, arm: str, seed: int, state: dict[str, torch.Tensor]) -> dict[str, float | str | int]:
    """The numbers of one training, over samples that it was trained on and the labels that it was trained with.

    BatchNorm uses its running statistics.
    """
    samples, _ = _extent(task)
    net = WithInputs(task.net())
    net.net.load_state_dict(state)
    net.eval()
    *inputs, labels = (tensor[:samples] for tensor in training_part(task, seed))
    loss = hpf.BatchLoss(net, [(tuple(inputs), labels)], cross_entropy)
    parameters = list(net.parameters())
    with torch.no_grad():
        value = float(loss())
    eigenvalue = hpf.hessian_eigenvalues(loss, parameters, 1, tolerance=0.02, max_products=300).values[0]
    rises = {f"rise {radius}": hpf.ascent_rise(loss, parameters, radius, steps=ASCENT_STEPS) for radius in RADII}
    return {"task": task.name, "arm": arm, "seed": seed, "loss": value, "eigenvalue": float(eigenvalue), **rises}


def measure_all(results: Results) -> None:
    """Measures every training whose weights are there and that is not measured yet."""
    done = {(row["task"], row["arm"], row["seed"]) for row in results.sharpness}
    for task in (task for task in TASKS if task.lr_divisor == 1):
        for arm in ARMS:
            for seed in SEEDS[: _extent(task)[1]]:
                path = weights_path(task, arm, seed)
                is_due = task.name not in LARGE or arm.name in LARGE_ARMS
                if is_due and (task.name, arm.name, seed) not in done and path.exists():
                    results.sharpness.append(measure(task, arm.name, seed, torch.load(path, weights_only=True)))
                    results.save()
                    print(results.sharpness[-1], flush=True)


def _extent(task: Task) -> tuple[int, int]:
    return LARGE.get(task.name, EXTENT)
