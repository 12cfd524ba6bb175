"""The two halves of a classifier: a backbone that gives features, and a head that makes classes of them."""

from lightning_hp.nn.backbone import Backbone
from lightning_hp.nn.head import ClassifierHead
from lightning_hp.nn.speed import InferenceSpeed

__all__ = ["Backbone", "ClassifierHead", "InferenceSpeed"]
