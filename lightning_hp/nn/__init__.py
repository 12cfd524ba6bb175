"""The two halves of a classifier: a backbone that gives features, and a head that makes classes of them."""

from lightning_hp.nn.backbone.backbone import Backbone
from lightning_hp.nn.backbone.speed import InferenceSpeed
from lightning_hp.nn.head import ClassifierHead

__all__ = [
    "Backbone",
    "ClassifierHead",
    "InferenceSpeed",
]
