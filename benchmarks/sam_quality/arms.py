"""What is compared: each arm has one number of its own that is tuned, beside the learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.sam_quality.tasks import Task

#: The learning-rate schedule: a linear warm-up, the highest rate, and a linear decay to zero, as shares of the steps.
WARM_UP, DECAY = 0.05, 0.2

#: Before any tuning, and in all arms that do not tune it.
WEIGHT_DECAY = {"SGD": 5e-4, "AdamW": 0.01}

#: Factors of the learning rate that the finder suggests.
LRS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
WEIGHT_DECAYS = {"SGD": (2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1), "AdamW": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}
RADII = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)

Knob = Literal["lr", "weight_decay", "rho"]


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to train.

    Attributes:
        name: Its name.
        knob: The number that is tuned first.
        radii: The values of ``rho``, where this is the knob.
        sam: Further arguments of SAM; ``None``: without SAM.
        share: Part of the steps in which SAM acts.
        longer: Whether the training takes as much time as one with SAM in every step.

    """

    name: str
    knob: Knob = "rho"
    radii: tuple[float, ...] = RADII
    sam: dict[str, Any] | None = field(default_factory=dict)
    share: float = 1.0
    longer: bool = False

    @property
    def family(self) -> str:
        """Whose learning rate is the first: SAM's, if it acts all the time."""
        return "SAM" if self.sam is not None and not self.sam.get("start") else "base"

    def values(self, task: Task, lr: float) -> tuple[float, ...]:
        """The values of the knob at a suggested learning rate: six, or the four in the middle."""
        decays = WEIGHT_DECAYS[task.optimizer]
        values = {"lr": tuple(lr * factor for factor in LRS), "weight_decay": decays, "rho": self.radii}[self.knob]
        left_out = (len(values) - task.num_values) // 2
        return values[left_out : len(values) - left_out]

    def applies_to(self, task: Task) -> bool:
        """Whether the network has what the arm acts on."""
        return task.has_norm or self.sam is None or self.sam.get("params") != "norm"


BASE, LONGER = Arm("base", "lr", sam=None, share=0.0), Arm("base, SAM's time", "lr", sam=None, share=0.0, longer=True)
TUNED_DECAY = Arm("base, weight decay tuned", "weight_decay", sam=None, share=0.0)
SAM_ARM = Arm("SAM")
ARMS: tuple[Arm, ...] = (
    BASE,
    SAM_ARM,
    LONGER,
    TUNED_DECAY,
    Arm("ASAM", radii=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0), sam={"adaptive": True}),
    Arm("SAM, interval=2", radii=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6), sam={"interval": 2}, share=0.5),
    Arm("SAM, params='norm'", radii=(0.1, 0.2, 0.4, 0.8, 1.6, 3.2), sam={"params": "norm"}),
    Arm("SAM, last 57 %", sam={"start": 1 - 0.57}, share=0.57),
    Arm("SAM, last 30 %", sam={"start": 1 - 0.30}, share=0.30),
    Arm("SAM, start='decay'", sam={"start": "decay"}, share=DECAY),
    Arm("SAM, last 10 %", sam={"start": 1 - 0.10}, share=0.10),
)
