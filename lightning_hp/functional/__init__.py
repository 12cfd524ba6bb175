"""The maths, without Lightning: numpy in, plain numbers and arrays out.

``import lightning_hp.functional as hpf``
"""

from lightning_hp.functional.lr_steps import lr_range
from lightning_hp.functional.lr_rules import minimum_lr, slide_lr, steep_lr, steepest_lr, valley_lr
from lightning_hp.functional.lr_suggestion import LRSuggestion, suggest_lr

__all__ = [
    "LRSuggestion",
    "lr_range",
    "minimum_lr",
    "slide_lr",
    "steep_lr",
    "steepest_lr",
    "suggest_lr",
    "valley_lr",
]
