"""The maths, without Lightning: numpy in, plain numbers and arrays out.

``import lightning_hp.functional as hpf``
"""

from lightning_hp.functional.batch_ladder import next_rung
from lightning_hp.functional.batch_memory import predict_batch_size, predict_peak
from lightning_hp.functional.batch_search import BatchSearch, search_batch_size
from lightning_hp.functional.batch_throughput import throughput_is_flat, throughput_knee
from lightning_hp.functional.class_coverage import batch_size_for_coverage, coverage_probability
from lightning_hp.functional.class_share import batch_size_for_average, batch_size_for_share, covered_share
from lightning_hp.functional.gradient_norm import gradient_norm
from lightning_hp.functional.lr_rules import minimum_lr, slide_lr, steep_lr, steepest_lr, valley_lr
from lightning_hp.functional.lr_scaling import scale_lr, scaling_advice, scaling_rule
from lightning_hp.functional.lr_steps import lr_range
from lightning_hp.functional.lr_suggestion import LRSuggestion, suggest_lr
from lightning_hp.functional.lr_warmup import warmup_lr, warmup_steps
from lightning_hp.functional.perturbation import Perturbation
from lightning_hp.functional.perturbation_plan import is_stuck, norm_parameters, perturbation_radius

__all__ = [
    "BatchSearch",
    "LRSuggestion",
    "Perturbation",
    "batch_size_for_average",
    "batch_size_for_coverage",
    "batch_size_for_share",
    "coverage_probability",
    "covered_share",
    "gradient_norm",
    "is_stuck",
    "lr_range",
    "minimum_lr",
    "next_rung",
    "norm_parameters",
    "perturbation_radius",
    "predict_batch_size",
    "predict_peak",
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
