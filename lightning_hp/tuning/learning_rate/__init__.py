"""Finds a learning rate in a running Trainer: a range test, then short trainings at a few rates.

`settings` holds what decides the search and its cost, `steps` runs training steps at given rates, `range_test` sweeps
over all rates, `short_trainings` trains at a few of them and chooses, and `find` puts the parts together.
"""

from lightning_hp.tuning.learning_rate.find import find_learning_rate
from lightning_hp.tuning.learning_rate.settings import MIN_STEPS, LearningRateSettings, Rule

__all__ = ["MIN_STEPS", "LearningRateSettings", "Rule", "find_learning_rate"]
