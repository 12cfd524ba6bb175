"""The gradient noise scale: the norms of the parts of a gradient, in a training and in a rehearsal."""

from lightning_hp.tuning.noise_scale.observations import Observations, num_distinct_steps
from lightning_hp.tuning.noise_scale.rehearsed import RehearsedNoise, rehearse_noise_scale
from lightning_hp.tuning.noise_scale.sample_counter import SampleCounter
from lightning_hp.tuning.noise_scale.step_meter import Norms, StepMeter, has_second_pass
from lightning_hp.tuning.noise_scale.unsupported import (
    refuse_for_noise_scale,
    refuse_optimizer_for_noise_scale,
)

__all__ = [
    "Norms",
    "Observations",
    "RehearsedNoise",
    "SampleCounter",
    "StepMeter",
    "has_second_pass",
    "num_distinct_steps",
    "refuse_for_noise_scale",
    "refuse_optimizer_for_noise_scale",
    "rehearse_noise_scale",
]
