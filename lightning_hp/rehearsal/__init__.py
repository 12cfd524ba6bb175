"""The rehearsal: real training steps, after which every state is restored."""

from lightning_hp.rehearsal.evaluation import EvaluationRehearsal, evaluation_loop
from lightning_hp.rehearsal.hooks import BEFORE_EPOCH, BEFORE_FIT, Moment
from lightning_hp.rehearsal.outside_fit import rehearse_outside_fit
from lightning_hp.rehearsal.participants import (
    at_heaviest_step,
    changes_gradients,
    is_accumulation_scheduler,
)
from lightning_hp.rehearsal.recorder import is_rehearsal
from lightning_hp.rehearsal.refusals import consuming_data, reason_not_to_rehearse
from lightning_hp.rehearsal.rehearsal import Rehearsal

__all__ = [
    "BEFORE_EPOCH",
    "BEFORE_FIT",
    "EvaluationRehearsal",
    "Moment",
    "Rehearsal",
    "at_heaviest_step",
    "changes_gradients",
    "consuming_data",
    "evaluation_loop",
    "is_accumulation_scheduler",
    "is_rehearsal",
    "reason_not_to_rehearse",
    "rehearse_outside_fit",
]
