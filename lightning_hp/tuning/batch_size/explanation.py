"""Explains a choice: a row for every bound, and notes on classes and accumulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_hp.data import ClassCounts, UnknownClasses
from lightning_hp.functional.batch_size.throughput import medians_of
from lightning_hp.results import BatchBound
from lightning_hp.tuning.batch_size.bounds import Bounds
from lightning_hp.tuning.batch_size.choice import Choice
from lightning_hp.tuning.batch_size.trials import BatchTrials, in_mib


def describe_bounds(bounds: Bounds, choice: Choice, trials: BatchTrials) -> tuple[BatchBound, ...]:
    """One row for each bound: its size and where it comes from."""
    rows = [_memory(choice, trials), _classes(bounds), _throughput(choice, trials, bounds.goal.within)]
    if bounds.data_limit is not None:
        rows.append(BatchBound("data", "at most", bounds.data_limit, _data(bounds)))
    if bounds.step_limit is not None:
        detail = f"at least {bounds.settings.step_share:.0%} of the optimizer steps that the training has now"
        rows.append(BatchBound("steps", "at most", bounds.step_limit, detail))
    rows.append(BatchBound("max_val", "at most", bounds.settings.max_val, "the largest size to try"))
    return tuple(rows)


def notes_on(bounds: Bounds, choice: Choice, accumulate: int) -> list[str]:
    """Sentences on the classes and on accumulation that the user should read."""
    size = choice.batch_size or 1
    step = size * accumulate * bounds.world_size
    notes = []
    if step < bounds.needed:
        notes.append(
            f"The classes need {bounds.needed} samples in an optimizer step and get {step}; the bounds show why. A"
            " smaller `min_per_class` needs fewer, and with `min_per_class=0` the classes are ignored."
        )
    notes += _counts(bounds, size, accumulate)
    if choice.kept:
        notes.append(f"The present size {size} is kept: no size that was tried is faster by more than the bounds say.")
    elif bounds.highest[1] == "steps" and choice.decided_by == "highest":
        notes.append(
            f"Larger batches were not tried, and may be faster: with more than {bounds.highest[0]} samples the training"
            f" would keep less than {bounds.settings.step_share:.0%} of its optimizer steps. A smaller"
            ' `limits={"min_step_share": ...}` allows it.'
        )
    if choice.avoided is not None:
        notes.append(
            f"A batch size of {choice.avoided} would leave a last batch of one sample, which batch normalisation cannot"
            f" train with, so it is {size}."
        )
    if accumulate > 1 and bounds.has_batch_norm:
        notes.append(f"Batch normalisation sees the micro-batch of {size}, not the {step} samples of a step.")
    counts, least = bounds.classes, bounds.settings.min_per_class
    if isinstance(counts, ClassCounts) and len(counts.present) and not counts.guaranteed:
        rarest = step * float(counts.present.min() / counts.present.sum())
        if rarest < 0.8 * least <= 0.8 * step / len(counts.present):
            notes.append(
                f"The classes are not balanced: an optimizer step has {rarest:.2g} samples of the rarest on average."
            )
    largest = min(filter(None, (choice.knee, choice.limit)), default=0)
    if bounds.share is not None and 2 * size <= largest:
        notes.append(f"The largest divisor of {bounds.share} that fits is {size}; batches up to {largest} would fit.")
    return notes


def _counts(bounds: Bounds, size: int, accumulate: int) -> list[str]:
    """One sentence on all that counts batches or steps, if the training has another number of them than before."""
    before = bounds.num_training_steps(bounds.value, bounds.accumulate)
    after = bounds.num_training_steps(size, accumulate)
    if before == after:
        return []
    parts = []
    for count in bounds.counts:
        old, new = bounds.times(count, bounds.value), bounds.times(count, size, accumulate)
        if old != new:
            parts.append(f"{count.name} acts {new:.0f} instead of {old:.0f} times")
    if bounds.schedules:
        parts.append(f"the rates of {' and '.join(bounds.schedules)} do not follow the number of steps")
    if not parts and (before == math.inf or after > before):
        return []
    what = f": {', '.join(parts)}" if parts else ""
    return [f"At this size the training has {after:.0f} optimizer steps instead of {before:.0f}{what}."]


def note_on_speed(choice: Choice, speeds: Mapping[int, Sequence[float]]) -> list[str]:
    """One sentence on the fastest size that was tried, if it is larger than the one that was chosen."""
    medians = medians_of(speeds)
    best = max(medians, key=lambda size: medians[size])
    own = medians.get(choice.batch_size or 0)
    if own is None or best <= (choice.batch_size or 0) or choice.decided_by not in ("throughput", "classes"):
        return []
    gain = medians[best] / own - 1
    return [f"Batches of {best} were {gain:.0%} faster in samples per second, and not taken for that."]


def _data(bounds: Bounds) -> str:
    settings, samples = bounds.settings, f"{bounds.samples} samples"
    if bounds.float_limit is not None and bounds.data_limit == bounds.float_limit[0]:
        return f"{samples}, and {bounds.float_limit[1]} has to leave a batch"
    if bounds.count_limit is not None and bounds.data_limit == bounds.count_limit[0]:
        return f"{samples}, for {bounds.count_limit[1]} to act in the training"
    if bounds.val_interval is not None and bounds.data_limit == max(1, (bounds.samples or 0) // bounds.val_interval):
        return f"{samples}, and the Trainer validates after {bounds.val_interval} batches"
    if not bounds.trains or bounds.share is not None:
        return samples
    if bounds.data_limit == min(bounds.value, bounds.samples or 0):
        return f"{samples}; the present batch size is always allowed"
    in_all = "" if bounds.max_epochs is None else f" and {settings.min_training_steps} in all"
    return f"{samples}, at least {settings.min_steps_per_epoch} steps an epoch{in_all}"


def _classes(bounds: Bounds) -> BatchBound:
    counts, least = bounds.classes, bounds.settings.min_per_class
    if isinstance(counts, UnknownClasses):
        return BatchBound("classes", "at least", None, f"not known: {counts.reason}")
    if counts.guaranteed >= least:
        return BatchBound("classes", "at least", None, f"every batch contains every class {counts.guaranteed} times")
    number = bounds.num_classes
    source = f"{number} {'class' if number == 1 else 'classes'} from {counts.source}"
    if number > len(counts.present):
        source = f"{number} classes by `num_classes`, of which {len(counts.present)} occur in {counts.source}"
    rule = f"{least} of each on average"
    if bounds.settings.coverage is not None and not counts.no_coverage:
        rule = f"{least} of each with probability {bounds.settings.coverage:g}"
    micro_batch = bounds.goal.at_least if bounds.share is None else -(-bounds.needed // bounds.world_size)
    reason = f". {counts.no_coverage}" if counts.no_coverage else ""
    return BatchBound("classes", "at least", micro_batch, f"{rule}, {source}: {bounds.needed} samples a step{reason}")


def _memory(choice: Choice, trials: BatchTrials) -> BatchBound:
    allowed = "" if trials.allowed_bytes == math.inf else f"{in_mib(trials.allowed_bytes)}, "
    detail = f"{allowed}{trials.budget.source}"
    failed = {trial.batch_size: trial.reason for trial in trials.trials if not trial.fitted}
    if choice.limit is not None:
        above = min((size for size in failed if size > choice.limit), default=None)
        return BatchBound(
            "memory", "at most", choice.limit, detail if above is None else f"{detail}; {above}: {failed[above]}"
        )
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
