"""The suggestion against curves whose answer has a closed form, and against what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_hp.functional import lr_range, suggest_lr
from lightning_hp.functional.learning_rate.range_test import has_exploded
from lightning_hp.functional.learning_rate.rules import RULES
from lightning_hp.functional.learning_rate.suggestion import falling_part

LRS = lr_range(1e-7, 10, 112)
CENTRE, WIDTH = -3.0, 0.25  # of the fall, in decades


def fall(lrs, centre=CENTRE, width=WIDTH):
    """The part of the fall that is done at each rate: logistic in log10(lr)."""
    return 1 / (1 + np.exp(-(np.log10(lrs) - centre) / width))


def log_lr_at(share, centre=CENTRE, width=WIDTH):
    """Where a logistic has done ``share`` of its fall."""
    return centre + width * math.log(share / (1 - share))


def curve(lrs=LRS, centre=CENTRE, noise=0.0, seed=0, start=2.3, depth=2.0, edge=2.5):
    """A fall of ``depth``, and ``edge`` decades later an explosion that has lost as much again."""
    explosion = 10 ** np.minimum(4 * (np.log10(lrs) - centre - edge), 6)
    return start + depth * (explosion - fall(lrs, centre)) + np.random.default_rng(seed).normal(0, noise, len(lrs))


def log_error(found, share=2 / 3, centre=CENTRE):
    return math.log10(found) - log_lr_at(share, centre)


# --- closed forms


def test_two_thirds_of_the_fall_and_its_interval():
    found = suggest_lr(LRS, curve())
    assert found.reason is None
    assert found.note is None
    assert abs(log_error(found.lr)) < 0.05
    assert abs(log_error(found.interval[0], 0.5)) < 0.02
    assert abs(log_error(found.interval[1], 0.8)) < 0.1  # the kernel widens the ends of the fall
    assert found.interval[0] < found.lr < found.interval[1]
    assert found.rules["fall"] == found.lr
    assert found.rules["half"] == found.interval[0]
    assert found.plateau == pytest.approx(2.3, abs=0.01)


def test_one_cycle_is_the_geometric_mean_of_a_quarter_down_and_the_edge():
    found = suggest_lr(LRS, curve())
    edge = CENTRE + 2.5 + math.log10(0.25) / 4  # 2 * 10 ** (4 * (x - centre - 2.5)) is a quarter of the fall, 2 / 4
    assert -0.3 < math.log10(found.edge) - edge < 0  # the kernel sees the explosion coming
    quarter = log_lr_at(0.25)
    assert math.log10(found.one_cycle) == pytest.approx((quarter + math.log10(found.edge)) / 2, abs=0.05)
    assert found.rules["one_cycle"] == found.one_cycle


def test_a_piecewise_line_is_crossed_where_the_line_says():
    x = np.log10(LRS)
    line = np.interp(x, [-7, -5, -1, 1], [1, 1, 0, 0])  # the kernel leaves the middle of a line where it is
    found = suggest_lr(LRS, line)
    assert math.log10(found.interval[0]) == pytest.approx(-3, abs=0.01)
    assert math.log10(found.lr) == pytest.approx(-5 + 4 * 2 / 3, abs=0.01)


def test_the_smooth_curve_is_the_kernel_average_written_as_a_loop():
    losses = 2.3 - 2 * fall(LRS) + np.random.default_rng(0).normal(0, 0.05, 112)
    losses[60] = np.nan
    x, y = np.delete(np.log10(LRS), 60), np.delete(losses, 60)
    smoothed = []
    for here in x:
        total = weights = 0.0
        for j in range(111):
            middle = y[j] if j in (0, 110) else sorted(y[j - 1 : j + 2])[1]
            share = 1.5 if j in (59, 60) else 1.0  # the neighbours of the gap stand for half a step more each
            weight = share * math.exp(-0.5 * ((here - x[j]) / 0.25) ** 2)
            total, weights = total + weight * middle, weights + weight
        smoothed.append(total / weights)
    found = suggest_lr(LRS, losses).smoothed
    assert np.isnan(found[60])
    np.testing.assert_allclose(np.delete(found, 60), smoothed, rtol=1e-12)


# --- invariances


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 1e5])
@pytest.mark.parametrize("offset", [-100.0, -2.3, 0.0, 40.0])
def test_scale_and_offset_of_the_loss_do_not_matter(scale, offset):
    losses = curve(noise=0.03)
    unmoved, moved = suggest_lr(LRS, losses), suggest_lr(LRS, scale * (losses + offset))
    for name in ("lr", "one_cycle", "edge", "interval", "signal"):
        assert getattr(moved, name) == pytest.approx(getattr(unmoved, name), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 0.1, 20.0])
def test_the_answer_moves_with_the_learning_rates(factor):
    losses = curve(noise=0.03)
    assert suggest_lr(LRS * factor, losses).lr == pytest.approx(suggest_lr(LRS, losses).lr * factor, rel=1e-9)


@pytest.mark.parametrize("min_lr", [1e-8, 1e-6, 1e-5])
@pytest.mark.parametrize("max_lr", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("steps_per_decade", [8, 14, 40])
def test_range_and_number_of_steps_do_not_matter(min_lr, max_lr, steps_per_decade):
    lrs = lr_range(min_lr, max_lr, round(steps_per_decade * math.log10(max_lr / min_lr)))
    assert abs(log_error(suggest_lr(lrs, curve(lrs, noise=0.02)).lr)) < 0.07


@pytest.mark.parametrize("centre", [-5.0, -4.0, -1.0])
def test_a_fall_anywhere_is_found(centre):
    assert abs(log_error(suggest_lr(LRS, curve(centre=centre, noise=0.05)).lr, centre=centre)) < 0.1


def test_noise_moves_the_answer_little_and_repeats_move_it_less():
    errors = [log_error(suggest_lr(LRS, curve(noise=0.2, seed=seed)).lr) for seed in range(40)]
    medians = [
        log_error(suggest_lr(LRS, [curve(noise=0.2, seed=3 * seed + i) for i in range(3)]).lr) for seed in range(40)
    ]
    assert np.std(errors) < 0.06
    assert np.abs(errors).max() < 0.2
    assert np.std(medians) < np.std(errors)


@pytest.mark.parametrize("height", [1e2, 1e9, 1e300])
def test_the_height_of_the_explosion_does_not_leak_left(height):
    losses = curve(noise=0.02)
    exploded = LRS > 1.0
    low = suggest_lr(LRS, np.where(exploded, 50.0, losses))
    higher = suggest_lr(LRS, np.where(exploded, height, losses))
    assert higher.lr == low.lr
    assert higher.edge == low.edge


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_a_sweep_that_stopped_is_padded(lost):
    losses = curve(noise=0.02)
    stopped = losses.copy()
    stopped[np.argmax(losses > 4 * losses[0]) + 1 :] = lost
    assert suggest_lr(LRS, stopped).lr == pytest.approx(suggest_lr(LRS, losses).lr, rel=1e-3)
    assert np.isnan(suggest_lr(LRS, stopped).smoothed[-1])


def test_single_lost_losses_are_left_out():
    losses = curve(noise=0.02)
    losses[np.random.default_rng(1).choice(112, 20, replace=False)] = np.nan
    assert abs(log_error(suggest_lr(LRS, losses).lr)) < 0.07


def test_a_single_lucky_or_unlucky_batch_does_not_matter():
    expected = suggest_lr(LRS, curve(noise=0.02)).lr
    for index, loss in ((30, 0.0), (30, 9.0), (55, 9.0), (65, 9.0)):
        losses = curve(noise=0.02)
        losses[index] = loss
        assert abs(math.log10(suggest_lr(LRS, losses).lr / expected)) < 0.03


def test_noise_at_tiny_rates_does_not_win():
    """Lightning divides the noise by tiny steps and suggests 1e-7; here the same losses give the fall."""
    from pytorch_lightning.tuner.lr_finder import _LRFinder

    losses = curve(noise=0.05)
    theirs = _LRFinder("exponential", 1e-7, 10, 112)
    theirs.results = {"lr": LRS.tolist(), "loss": losses.tolist()}
    assert theirs.suggestion() < 1e-5
    assert abs(log_error(suggest_lr(LRS, losses).lr)) < 0.1


def test_the_second_dip_after_a_blow_up_is_not_read():
    x = np.log10(LRS)
    dip = 2.3 - 2.0 * fall(LRS, -4.0) + 4.0 * fall(LRS, -2.0, 0.1) - 4.2 * fall(LRS, -0.5, 0.1)
    assert dip[x > 0].min() < dip[x < -2].min()
    found = suggest_lr(LRS, dip)
    assert abs(log_error(found.lr, centre=-4.0)) < 0.07
    assert math.log10(found.edge) < -1.8


def test_a_bump_on_the_plateau_is_no_valley():
    bump = curve() - 0.2 * np.exp(-0.5 * ((np.log10(LRS) + 5.5) / 0.2) ** 2)
    assert abs(log_error(suggest_lr(LRS, bump).lr)) < 0.05


def test_a_negative_loss_is_read_like_any_other():
    found = suggest_lr(LRS, curve(start=-3.0, noise=0.02))
    assert abs(log_error(found.lr)) < 0.07
    assert found.edge is not None


# --- repeats


def test_equal_repeats_are_one_sweep():
    losses = curve(noise=0.05)
    one, three = suggest_lr(LRS, losses), suggest_lr(LRS, [losses] * 3)
    assert three.lr == one.lr
    assert three.per_repeat == (one.lr,) * 3
    assert one.per_repeat == (one.lr,)


def test_the_order_of_repeats_does_not_matter():
    sweeps = np.stack([curve(noise=0.2, seed=seed) for seed in range(3)])
    assert suggest_lr(LRS, sweeps).lr == suggest_lr(LRS, sweeps[::-1]).lr


def test_one_bad_repeat_of_three_is_outvoted():
    good = [curve(noise=0.02, seed=seed) for seed in range(2)]
    found = suggest_lr(LRS, [*good, curve(centre=-5.5, noise=0.02)])
    assert abs(log_error(found.lr)) < 0.2


def test_the_last_survivor_of_three_does_not_speak_for_all():
    sweeps = np.stack([curve(noise=0.02, seed=seed) for seed in range(3)])
    sweeps[:2, 90:] = np.nan
    found = suggest_lr(LRS, sweeps)
    assert np.isnan(found.median[90:]).all()
    assert np.isfinite(found.median[:90]).all()


# --- refusals


@pytest.mark.parametrize("level", [-1.0, 0.0, 2.3, 1e30])
def test_a_constant_loss_is_refused_by_every_rule(level):
    found = suggest_lr(LRS, np.full(112, level))
    assert found.reason == "The loss never fell below where it started."
    assert found.lr is None
    assert found.interval is None
    assert set(found.rules.values()) == {None}


def test_rounding_is_no_fall():
    losses = (2.3 + np.random.default_rng(0).normal(0, 1e-7, 112)).astype(np.float32)
    assert suggest_lr(LRS, losses).lr is None


@pytest.mark.parametrize("steps", [15, 40, 112])
def test_pure_noise_is_refused(steps):
    for seed in range(60):
        found = suggest_lr(lr_range(1e-7, 1e-4, steps), np.random.default_rng(seed).normal(2.3, 0.2, steps))
        assert found.lr is None
        assert found.signal < 5
        assert found.reason


def test_a_fall_below_the_noise_is_said_to_be_one():
    noisy = 100 * np.random.default_rng(0).standard_normal(112) + 200 - 20 * fall(LRS)
    assert "less than its noise" in suggest_lr(LRS, noisy).reason


def test_a_loss_that_is_not_finite_from_the_start_is_said_to_be_so():
    assert "not finite at the first step" in suggest_lr(LRS, np.full(112, np.nan)).reason


@pytest.mark.parametrize("seed", range(40))
def test_the_peak_of_one_cycle_is_never_below_the_constant_rate(seed):
    random = np.random.default_rng(seed)
    centre, edge, width = 10 ** random.uniform(-5, -1), 10 ** random.uniform(0.1, 2), random.uniform(0.5, 3)
    losses = 2.3 - 2 / (1 + (centre / LRS) ** width) + (LRS / (centre * edge)) ** 4 + random.normal(0, 0.01, 112)
    found = suggest_lr(LRS, losses)
    assert found.lr is None or found.one_cycle >= found.lr


def test_a_loss_that_only_rises_is_refused():
    assert "never fell" in suggest_lr(LRS, 2.3 + fall(LRS)).reason


@pytest.mark.parametrize("max_lr", [1e-5, 1e-4, 1e-3, 2e-3])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_range_that_ends_in_the_fall_is_refused(max_lr, noise):
    """Without noise any fall is deeper than the noise, and the end of the range decides where two thirds of it are."""
    lrs = lr_range(1e-7, max_lr, round(14 * math.log10(max_lr / 1e-7)))
    found = suggest_lr(lrs, curve(lrs, noise=noise))
    assert found.lr is None
    assert "raise it" in found.reason or "times its noise" in found.reason


def test_a_range_that_ends_on_the_flat_bottom_is_read_with_a_note():
    lrs = lr_range(1e-7, 1e-1, 84)
    found = suggest_lr(lrs, 2.3 - 2 * fall(lrs))
    assert abs(log_error(found.lr)) < 0.05
    assert found.edge is None
    assert "had not risen again" in found.note
    assert found.one_cycle < 1e-1


def test_a_sweep_that_ended_by_a_lost_loss_has_its_edge_there():
    losses = 2.3 - 2 * fall(LRS)
    losses[90:] = np.nan
    found = suggest_lr(LRS, losses)
    assert found.edge == pytest.approx(LRS[89])
    assert found.note is None


def test_a_fall_at_the_smallest_rate_is_told():
    lrs = lr_range(1e-3, 10, 56)
    found = suggest_lr(lrs, curve(lrs, centre=-2.4, noise=0.01))
    assert "smallest rate" in (found.note or found.reason)


@pytest.mark.parametrize("finite", [1, 3, 9])
def test_too_few_losses_are_refused(finite):
    losses = np.full(112, np.nan)
    losses[:finite] = 2.3
    found = suggest_lr(LRS, losses)
    assert found.reason.startswith(f"Only {finite} of 112 steps")
    assert np.isnan(found.plateau)


def test_the_reason_never_rounds_the_signal_up_to_what_is_needed():
    for seed in range(30):
        found = suggest_lr(LRS, curve(noise=0.5, depth=1.2, seed=seed))
        if found.reason:
            assert "only 5 times" not in found.reason
    assert suggest_lr(LRS, curve(noise=0.05), min_signal=1e9).lr is None


# --- linear sweeps


def test_a_linear_sweep_is_not_drawn_to_its_many_large_rates():
    lrs = lr_range(1e-5, 0.5, 200, mode="linear")
    found = suggest_lr(lrs, 2.3 - 2 * fall(lrs, -1.5, 0.1))
    assert math.log10(found.lr) == pytest.approx(log_lr_at(2 / 3, -1.5, 0.1), abs=0.1)


# --- bad input


@pytest.mark.parametrize(
    ("lrs", "losses", "message"),
    [
        ([1e-3, 1e-2], [1.0], r"`losses.shape` to be \(2,\) or \(repeats, 2\)"),
        ([1e-3, 1e-2], [[[1.0, 2.0]]], r"but got \(1, 1, 2\)"),
        ([1e-3, 1e-2], np.empty((0, 2)), r"but got \(0, 2\)"),
        ([1e-2, 1e-3], [1.0, 2.0], "strictly rising"),
        ([1e-2, 1e-2], [1.0, 2.0], "strictly rising"),
        ([0.0, 1e-2], [1.0, 2.0], "positive"),
        ([1e-2, np.inf], [1.0, 2.0], "finite"),
        ([[1e-3, 1e-2]], [1.0, 2.0], r"`lrs.shape` to be \(steps,\) .* but got \(1, 2\)"),
    ],
)
def test_bad_sweeps(lrs, losses, message):
    with pytest.raises(ValueError, match=message):
        suggest_lr(lrs, losses)


@pytest.mark.parametrize("option", ["bandwidth", "min_signal"])
@pytest.mark.parametrize("value", [0, -1, np.inf, np.nan])
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=f"Expected `{option}` to be a finite number > 0(, or None)?, but got"):
        suggest_lr(LRS, curve(), **{option: value})


# --- the range test


def test_lr_range_is_exact_at_both_ends_and_even_in_between():
    lrs = lr_range(1e-7, 10, 112)
    assert (lrs[0], lrs[-1], len(lrs)) == (1e-7, 10.0, 112)
    np.testing.assert_allclose(lrs[1:] / lrs[:-1], 10 ** (8 / 111))
    lrs = lr_range(3e-7, 0.7, 50, mode="linear")
    assert (lrs[0], lrs[-1], len(lrs)) == (3e-7, 0.7, 50)
    np.testing.assert_allclose(np.diff(lrs), (0.7 - 3e-7) / 49)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((0, 1, 5), ValueError, "`min_lr` to be a finite number > 0, but got 0"),
        ((1, 1, 5), ValueError, "`max_lr` to be a finite number > 1, but got 1"),
        ((1e-3, math.inf, 5), ValueError, "`max_lr` to be a finite number > 0.001, but got inf"),
        ((math.nan, 1, 5), ValueError, "`min_lr` to be a finite number > 0, but got nan"),
        ((1e-3, 1, 1), ValueError, "an int from 2 to 10000000, but got 1"),
        ((1e-3, 1, 2.5), TypeError, "an int from 2 to 10000000, but got 2.5"),
        ((1e-3, 1, 5, "cubic"), ValueError, "one of 'exponential', 'linear', but got 'cubic'"),
    ],
)
def test_lr_range_refuses(args, error, message):
    with pytest.raises(error, match=message):
        lr_range(*args)


def test_has_exploded():
    assert not has_exploded([], 4.0)
    assert not has_exploded([2.0, 9.0], 4.0)
    assert has_exploded([2.0, math.nan], None)
    assert has_exploded([2.0] * 20 + [math.inf, 2.0], 4.0)
    assert not has_exploded([2.0] * 8 + [9.0] * 3, None)
    assert not has_exploded([2.0] * 8 + [7.9] * 3, 4.0)
    assert has_exploded([2.0] * 8 + [8.1] * 3, 4.0)
    assert not has_exploded([2.0] * 8 + [99.0, 2.0, 99.0, 2.0, 2.0], 4.0)  # single bad batches
    assert not has_exploded([-2.0] * 8 + [3.9] * 3, 4.0)  # the allowed rise is three times its absolute value
    assert has_exploded([-2.0] * 8 + [4.1] * 3, 4.0)


# --- the falling part


def test_the_falling_part_holds_the_fall():
    suggestion = suggest_lr(LRS, curve())
    low, high = falling_part(LRS, suggestion)
    assert abs(log_error(low, 0.1)) < 0.2
    assert high == suggestion.edge


def test_no_part_without_a_suggestion_and_none_of_another_sweep():
    assert falling_part(LRS, suggest_lr(LRS, np.full(112, 2.3))) is None
    with pytest.raises(ValueError, match=r"`lrs.shape` to be \(112,\), the shape of the sweep that was read"):
        falling_part(LRS[:50], suggest_lr(LRS, curve()))
    with pytest.raises(TypeError, match="`suggestion` to be an LRSuggestion, but got None"):
        falling_part(LRS, None)


def test_every_rule_has_a_name():
    assert ["trainings", *suggest_lr(LRS, curve()).rules] == list(RULES)
