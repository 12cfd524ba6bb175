"""How a value is found through a rehearsal: ``learning_rate/`` and ``batch_size/``."""

from lightning_hp.tuning.learning_rate import MIN_STEPS, LearningRateSettings, Rule, find_learning_rate

__all__ = ["MIN_STEPS", "LearningRateSettings", "Rule", "find_learning_rate"]
