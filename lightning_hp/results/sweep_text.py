"""A sweep in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_hp.functional.sweep.labels import describe, key_of, short_label

if TYPE_CHECKING:
    from lightning_hp.results.sweep import SubjectEffect, SweepResult


def describe_sweep(result: SweepResult) -> str:
    """The counts, the best and the recommended settings, and the effects."""
    lines = [_counts(result)]
    if not any(trial.status == "complete" for trial in result.trials):
        return lines[0]
    summary = {key_of(result.best): "best", key_of(result.recommended): "recommended"}
    names = "best, recommended" if len(summary) == 1 else "best"
    lines.append(f"  {names}: {_settings(result, result.best)}: {_mean(result, result.best)}")
    if len(summary) == 2:
        chosen = result.recommended
        lines.append(f"  recommended: {_settings(result, chosen)}: {_mean(result, chosen)}{_saving(result)}")
    lines.append(_ties(result))
    if result.effects:
        lines.append("  effect of each subject (best - worst value, 95 % interval):")
        lines.extend(f"    {_effect(effect)}" for effect in result.effects.values())
    lines.extend(_failures(result))
    return "\n".join(lines)


def _settings(result: SweepResult, settings: dict[str, object]) -> str:
    """Settings, and what was used instead of them."""
    used = result.used(settings)
    return describe(settings) + (f" (used: {describe(used)})" if used else "")


def _counts(result: SweepResult) -> str:
    settings = len({key_of(trial.settings) for trial in result.trials})
    others = [f"{count} {status}" for status in ("failed", "pruned") if (count := _count(result, status))]
    better = "higher" if result.mode == "max" else "lower"
    trainings = _counted(len(result.trials), "training") + (f" ({', '.join(others)})" if others else "")
    return (
        f"Sweep over {_counted(settings, 'setting')} with {_counted(len(result.seeds), 'seed')}, {trainings};"
        f" {result.monitor}, {better} is better"
    )


def _failures(result: SweepResult) -> list[str]:
    """The values that failed in each of their trainings, which have no place in the effects."""
    lines = []
    for names, values in result.subjects:
        for value in values:
            wanted = dict(zip(names, value, strict=True))
            trials = [trial for trial in result.trials if wanted.items() <= trial.settings.items()]
            if trials and all(trial.status == "failed" for trial in trials):
                count = "its only training" if len(trials) == 1 else f"all {len(trials)} trainings"
                lines.append(f"  {describe(wanted)}: {count} failed; the first one: {trials[0].reason}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _count(result: SweepResult, status: str) -> int:
    return sum(trial.status == status for trial in result.trials)


def _mean(result: SweepResult, settings: dict[str, object]) -> str:
    scores = result.scores(settings)
    mean = sum(scores) / len(scores)
    if len(scores) == 1:
        return f"{mean:.4g}"
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    return f"{mean:.4g} ± {deviation / math.sqrt(len(scores)):.2g}"


def _saving(result: SweepResult) -> str:
    best, chosen = (result.cost_of(settings) for settings in (result.best, result.recommended))
    unit = {"parameters": "parameters", "latency": "ms for one sample", "time": "s"}[result.cost]
    return f", {chosen:.4g} instead of {best:.4g} {unit}, within one standard error of the best"


def _ties(result: SweepResult) -> str:
    others = len(result.ties) - 1
    left = sum(math.isnan(summary.mean) for summary in result.summaries())
    unknown = f"; {_counted(left, 'setting')} not trained to the end with every seed" if left else ""
    if len(result.seeds) == 1:
        return "  one seed: differences between settings cannot be told from noise"
    if others == 0:
        return f"  no other setting is as good{unknown}"
    if others == 1:
        return f"  one other setting cannot be told from the best: {describe(result.ties[1])}{unknown}"
    return f"  {others} other settings cannot be told from the best{unknown}"


def _effect(effect: SubjectEffect) -> str:
    if effect.is_unused:
        return f"{effect.subject}: exactly the same scores with every value; does the training use it?"
    margin = "" if math.isnan(effect.margin) else f" ± {effect.margin:.2g}"
    others = [short_label(value) for value in effect.ties if value != effect.best]
    tied = f"; {', '.join(others)} cannot be told from it" if others else ""
    if not math.isnan(effect.margin) and effect.effect <= effect.margin:
        return f"{effect.subject}: {effect.effect:.3g}{margin}: no difference beyond noise"
    return f"{effect.subject}: {effect.effect:.3g}{margin}; best {short_label(effect.best)}{tied}"
