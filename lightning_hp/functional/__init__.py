"""The mathematics without Lightning, as functions of numbers, arrays and tensors.

``import lightning_hp.functional as hpf``
"""

from lightning_hp.functional.batch_size.class_coverage import (
    batch_size_for_average,
    batch_size_for_coverage,
    batch_size_for_share,
    coverage_probability,
    covered_share,
)
from lightning_hp.functional.batch_size.memory import predict_batch_size, predict_peak
from lightning_hp.functional.batch_size.search import BatchSearch, search_batch_size
from lightning_hp.functional.batch_size.throughput import next_rung, throughput_is_flat, throughput_knee
from lightning_hp.functional.gradients import gradient_norm
from lightning_hp.functional.learning_rate.range_test import lr_range
from lightning_hp.functional.learning_rate.rules import minimum_lr, slide_lr, steep_lr, steepest_lr, valley_lr
from lightning_hp.functional.learning_rate.scaling import (
    scale_lr,
    scaling_advice,
    scaling_rule,
    warmup_lr,
    warmup_steps,
)
from lightning_hp.functional.learning_rate.short_trainings import TrainedChoice, choose_rate
from lightning_hp.functional.learning_rate.suggestion import LRSuggestion, suggest_lr
from lightning_hp.functional.norm_layers import norm_parameters
from lightning_hp.functional.sharpness.batch_loss import BatchLoss
from lightning_hp.functional.sharpness.coarse import coarse_points, fill_surface
from lightning_hp.functional.sharpness.directions import random_directions
from lightning_hp.functional.sharpness.hessian import (
    HessianEigenvalues,
    HessianTrace,
    hessian_eigenvalues,
    hessian_product,
    hessian_trace,
)
from lightning_hp.functional.sharpness.perturbation import Perturbation
from lightning_hp.functional.sharpness.rise import RandomRise, ascent_rise, random_rise
from lightning_hp.functional.sharpness.schedule import is_stuck, perturbation_radius
from lightning_hp.functional.sharpness.surface import loss_line, loss_path, loss_surface
from lightning_hp.functional.sharpness.trajectory import PCADirections, pca_directions, project_weights
from lightning_hp.functional.sweep.comparison import Comparison, compare_settings

__all__ = [
    "BatchLoss",
    "BatchSearch",
    "Comparison",
    "HessianEigenvalues",
    "HessianTrace",
    "LRSuggestion",
    "PCADirections",
    "Perturbation",
    "RandomRise",
    "TrainedChoice",
    "ascent_rise",
    "batch_size_for_average",
    "batch_size_for_coverage",
    "batch_size_for_share",
    "choose_rate",
    "coarse_points",
    "compare_settings",
    "coverage_probability",
    "covered_share",
    "fill_surface",
    "gradient_norm",
    "hessian_eigenvalues",
    "hessian_product",
    "hessian_trace",
    "is_stuck",
    "loss_line",
    "loss_path",
    "loss_surface",
    "lr_range",
    "minimum_lr",
    "next_rung",
    "norm_parameters",
    "pca_directions",
    "perturbation_radius",
    "predict_batch_size",
    "predict_peak",
    "project_weights",
    "random_directions",
    "random_rise",
    "scale_lr",
    "scaling_advice",
    "scaling_rule",
    "search_batch_size",
    "slide_lr",
    "steep_lr",
    "steepest_lr",
    "suggest_lr",
    "throughput_is_flat",
    "throughput_knee",
    "valley_lr",
    "warmup_lr",
    "warmup_steps",
]
