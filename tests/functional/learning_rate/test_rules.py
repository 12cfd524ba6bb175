"""The rules of other finders, against the finders themselves and against slow loops written from their definitions."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from lightning_hp.functional import lr_range, minimum_lr, slide_lr, steep_lr, steepest_lr, suggest_lr, valley_lr

RULES = {"steepest": steepest_lr, "steep": steep_lr, "valley": valley_lr, "slide": slide_lr, "minimum": minimum_lr}
LRS = lr_range(1e-7, 10, 100)


def curve(seed, lrs=LRS):
    """A noisy fall, then an explosion that a finder would stop at."""
    x = np.log10(lrs)
    fall = 1 / (1 + np.exp(-(x + 2.5) / 0.3))
    losses = 2.3 - 2 * fall + 10 ** np.minimum(4 * x, 3) + np.random.default_rng(seed).normal(0, 0.05, len(lrs))
    losses[np.argmax(losses > 9) + 1 :] = np.nan
    return losses


def fastai_curve(losses, planned):
    """Debiased moving average as the weighted mean that it is; then the cuts."""
    recorded = losses[: np.flatnonzero(np.isfinite(losses))[-1] + 1]
    smooth = []
    for i in range(len(recorded)):
        weights = [0.98 ** (i - j) for j in range(i + 1)]
        smooth.append(sum(w * loss for w, loss in zip(weights, recorded, strict=False)) / sum(weights))
    return smooth[planned // 10 : -5]


def rates(curve, planned=100, lrs=LRS):
    return lrs[planned // 10 :][: len(curve)]


# --- against the sources


@pytest.mark.parametrize("seed", range(8))
def test_steepest_is_torch_lr_finders(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import: about an optional package of its own
        peer = pytest.importorskip("torch_lr_finder")
    losses = curve(seed)
    recorded = losses[np.isfinite(losses)]
    history = [recorded[0]]
    for loss in recorded[1:]:
        history.append(0.05 * loss + 0.95 * history[-1])  # its `smooth_f=0.05`
    finder = object.__new__(peer.LRFinder)
    finder.history = {"lr": LRS[: len(history)].tolist(), "loss": history}
    from matplotlib.figure import Figure

    _, theirs = finder.plot(ax=Figure().subplots())
    assert steepest_lr(LRS, losses) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(8))
def test_steep_is_the_steepest_forward_difference(seed):
    smooth = fastai_curve(curve(seed), 100)
    lrs = rates(smooth)
    slopes = [(b - a) / np.log(lrs[i + 1] / lrs[i]) for i, (a, b) in enumerate(itertools.pairwise(smooth))]
    assert steep_lr(LRS, curve(seed)) == lrs[slopes.index(min(slopes))]


@pytest.mark.parametrize("seed", range(8))
def test_minimum_is_a_tenth(seed):
    smooth = fastai_curve(curve(seed), 100)
    assert minimum_lr(LRS, curve(seed)) == rates(smooth)[smooth.index(min(smooth))] / 10


@pytest.mark.parametrize("seed", range(12))
def test_valley_is_the_longest_falling_subsequence_by_trying_all(seed):
    lrs = lr_range(1e-4, 1, 18)
    losses = np.random.default_rng(seed).normal(1, 0.5, 18).cumsum() - 3 * np.arange(18) * (seed % 2)
    smooth = fastai_curve(losses, 18)

    def ends(length):
        """Where falling subsequences of that length end."""
        chosen = itertools.combinations(range(len(smooth)), length)
        return [c[-1] for c in chosen if all(smooth[a] > smooth[b] for a, b in itertools.pairwise(c))]

    longest = max(length for length in range(1, len(smooth) + 1) if ends(length))
    if longest == 1:
        assert valley_lr(lrs, losses) is None
        return
    start = min(ends(longest)) - longest
    assert valley_lr(lrs, losses) == rates(smooth, 18, lrs)[start + int(longest / 3) + int(longest / 3 / 2)]


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(8))
def test_slide_walks_left_with_a_ruler_of_fifteen(seed, scale):
    smooth = fastai_curve(scale * curve(seed), 100)
    slope = np.gradient(smooth)
    right, left = -1, -16
    found = rates(smooth)[left]
    while left >= -len(smooth) and abs(slope[right] - slope[left]) > 0.005:
        found = rates(smooth)[left]
        right, left = right - 1, left - 1
    assert slide_lr(LRS, scale * curve(seed)) == found


# --- curves without an answer


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "losses",
    [
        np.full(100, 2.3),
        np.zeros(100),
        np.full(100, np.nan),
        np.where(np.arange(100) < 12, np.linspace(2, 1, 100), np.nan),
        np.linspace(1, 2, 100),
    ],
    ids=["constant", "zero", "nothing", "short", "rising"],
)
def test_no_answer_where_nothing_falls_or_nothing_is_left(rule, losses):
    assert rule(LRS, losses) is None


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("steps", range(2, 22))
def test_any_length_is_survived(rule, steps):
    found = rule(lr_range(1e-3, 1, steps), np.linspace(2, 1, steps))
    assert found is None or 1e-4 <= found <= 1


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_lost_loss_in_the_middle(rule):
    """fastai's curve ends there, as its average would be lost from there on; torch-lr-finder's goes on without it."""
    losses, until = curve(0), curve(0)
    losses[70] = np.nan
    until[70:] = np.nan
    found = rule(LRS, losses)
    if rule is steepest_lr:
        assert found == pytest.approx(rule(np.delete(LRS, 70), np.delete(losses, 70)))
    else:
        # The five last recorded losses are dropped after the end of the sweep, not before the lost one.
        assert found == pytest.approx(rule(LRS, np.concatenate([until[:70], [losses[71]] * 5, until[75:]])))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_several_sweeps_are_refused(rule):
    with pytest.raises(ValueError, match=r"`losses.shape` to be \(100,\), which is one sweep, but got \(2, 100\)"):
        rule(LRS, [curve(0), curve(1)])


# --- known limits of the rules


def test_slide_moves_with_the_scale_of_the_loss_and_the_others_do_not():
    for name, rule in RULES.items():
        same = rule(LRS, 100 * curve(0)) == pytest.approx(rule(LRS, curve(0)))
        assert same == (name != "slide")


def test_the_rules_answer_also_where_the_suggestion_is_refused():
    found = suggest_lr(LRS, np.random.default_rng(0).normal(2.3, 0.1, 100))
    assert found.lr is None
    assert any(found.rules[name] is not None for name in ("steepest", "valley", "slide", "minimum"))
    faint = suggest_lr(LRS, found.median, min_signal=0.01)
    assert found.rules["fall"] == faint.lr is not None
    assert found.rules["one_cycle"] == faint.one_cycle


def test_the_suggestion_carries_each_rule_on_the_median():
    sweeps = [curve(seed) for seed in range(3)]
    found = suggest_lr(LRS, sweeps)
    for name in ("steepest", "valley", "slide", "minimum"):
        assert found.rules[name] == RULES[name](LRS, found.median)
    assert list(found.rules) == ["fall", "one_cycle", "half", "steepest", "valley", "slide", "minimum"]
