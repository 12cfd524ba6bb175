"""Every bound of a batch size in words, and what to know about the size that was chosen."""

from __future__ import annotations

import math

from lightning_hp.data import ClassCounts, NoClasses
from lightning_hp.functional.batch_size.throughput import medians_of
from lightning_hp.results import BatchBound
from lightning_hp.tuning.batch_size.bounds import Bounds
from lightning_hp.tuning.batch_size.choice import Choice
from lightning_hp.tuning.batch_size.trials import BatchTrials, in_mib


def describe_bounds(bounds: Bounds, choice: Choice, trials: BatchTrials) -> tuple[BatchBound, ...]:
    """Every bound, with where it comes from."""
    rows = [_memory(choice, trials), _classes(bounds), _throughput(choice, trials, bounds.asked.within)]
    if bounds.most_of_data is not None:
        rows.append(BatchBound("data", "at most", bounds.most_of_data, _data(bounds)))
    rows.append(BatchBound("max_val", "at most", bounds.asked.max_val, "the largest size to try"))
    return tuple(rows)


def notes_on(bounds: Bounds, choice: Choice, accumulate: int) -> list[str]:
    """What to know about the classes and about accumulation."""
    size = choice.batch_size or 1
    step = size * accumulate * bounds.world_size
    notes = []
    if step < bounds.needed:
        notes.append(
            f"The classes want {bounds.needed} samples in an optimizer step and get {step}: see the bounds, or draw"
            " balanced batches with ClassBalancedBatchSampler. `min_per_class=0` asks for nothing."
        )
    if accumulate > 1 and bounds.has_batch_norm:
        notes.append(f"Batch normalisation sees the micro-batch of {size}, not the {step} samples of a step.")
    counts, least = bounds.classes, bounds.asked.min_per_class
    if isinstance(counts, ClassCounts) and len(counts.present) and not counts.guaranteed:
        rarest = step * float(counts.present.min() / counts.present.sum())
        if rarest < 0.8 * least <= 0.8 * step / len(counts.present):
            notes.append(f"The classes are not balanced: the rarest comes {rarest:.2g} times in a step on average.")
    largest = min(filter(None, (choice.knee, choice.limit)), default=0)
    if bounds.share is not None and 2 * size <= largest:
        notes.append(f"Of the divisors of {bounds.share} the largest that fits is {size}; up to {largest} would fit.")
    return notes


def _data(bounds: Bounds) -> str:
    asked, samples = bounds.asked, f"{bounds.samples} samples"
    if bounds.interval is not None and bounds.most_of_data == max(1, (bounds.samples or 0) // bounds.interval):
        return f"{samples}, and the validation comes after {bounds.interval} batches"
    if not bounds.trains or bounds.share is not None:
        return samples
    if bounds.most_of_data == min(bounds.value, bounds.samples or 0):
        return f"{samples}, what the training came with"
    epochs = "" if bounds.epochs is None else f" and {asked.min_training_steps} in all"
    return f"{samples}, {asked.min_steps_per_epoch} steps an epoch{epochs} wanted"


def _classes(bounds: Bounds) -> BatchBound:
    counts, least = bounds.classes, bounds.asked.min_per_class
    if isinstance(counts, NoClasses):
        return BatchBound("classes", "at least", None, f"not known: {counts.reason}")
    if counts.guaranteed >= least:
        return BatchBound("classes", "at least", None, f"every batch holds every class {counts.guaranteed} times")
    number = len(counts.present)
    where = f"{number} {'class' if number == 1 else 'classes'} from {counts.source}"
    how = f"{least} of each on average"
    if bounds.asked.coverage is not None and not counts.no_coverage:
        how = f"{least} of each with probability {bounds.asked.coverage:g}"
    micro = bounds.wanted.at_least if bounds.share is None else -(-bounds.needed // bounds.world_size)
    reason = f". {counts.no_coverage}" if counts.no_coverage else ""
    return BatchBound("classes", "at least", micro, f"{how}, {where}: {bounds.needed} samples a step{reason}")


def _memory(choice: Choice, trials: BatchTrials) -> BatchBound:
    room = "" if trials.room == math.inf else f"{in_mib(trials.room)}, "
    detail = f"{room}{trials.budget.source}"
    failed = {trial.batch_size: trial.reason for trial in trials.trials if not trial.fitted}
    if choice.limit is not None:
        above = min((size for size in failed if size > choice.limit), default=None)
        said = detail if above is None else f"{detail}; {above}: {failed[above]}"
        return BatchBound("memory", "at most", choice.limit, said)
    largest = trials.fitted[-1]
    above = min((size for size in failed if size > largest), default=None)
    if above is not None:
        return BatchBound("memory", "at most", None, f"between {largest} and {above}, {failed[above]}")
    peak = dict(trials.peaks).get(largest)
    taken = "fits, " if peak is None else f"takes {in_mib(peak)} of "
    return BatchBound("memory", "at most", None, f"not reached, {largest} {taken}{detail}")


def _throughput(choice: Choice, trials: BatchTrials, within: float) -> BatchBound:
    speeds = medians_of(trials.speeds)
    best = max(speeds, key=lambda size: speeds[size])
    detail = f"within {within:.0%} of {speeds[best]:.4g} samples/s at {best}"
    if not choice.is_flat and best == max(speeds):
        detail = f"still rising at {best}, {speeds[best]:.4g} samples/s"
    return BatchBound("throughput", "fast from", choice.knee, detail)
