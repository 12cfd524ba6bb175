"""The two parts of a classifier: a backbone that computes features, and a head that computes logits from them."""

from lightning_hp.nn.backbone.backbone import Backbone
from lightning_hp.nn.backbone.speed import InferenceSpeed
from lightning_hp.nn.head import ClassifierHead

__all__ = [
    "Backbone",
    "ClassifierHead",
    "InferenceSpeed",
]
