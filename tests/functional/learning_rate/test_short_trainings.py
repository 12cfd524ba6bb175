"""The choice from short trainings, against loss curves whose best rate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_hp.functional import choose_rate
from lightning_hp.functional.learning_rate.training_losses import (
    final_loss,
    final_losses,
    rises_again,
    tied_rates,
    unchanged_losses,
)
from lightning_hp.functional.learning_rate.training_schedule import cool_down, progress_of
from lightning_hp.functional.learning_rate.tried_rates import STEP, first_rate, next_rate

STEPS = 100
UNTRAINED = np.random.default_rng(0).normal(2.3, 0.05, 40).tolist()
RATES = [10 ** (-3 + 0.5 * i) for i in range(5)]


def training(final: float, noise: float = 0.02, steps: int = STEPS, seed: int = 0) -> list[float]:
    """A loss that falls from 2.3 to `final` over the first half, over the same batches for the same seed."""
    fall = np.minimum(1.0, np.arange(steps) / (0.5 * steps))
    return (2.3 + (final - 2.3) * fall + np.random.default_rng(seed).normal(0, noise, steps)).tolist()


def parabola(best: float, rates: list[float] = RATES) -> dict[float, list[float]]:
    """Trainings whose final loss is a parabola over log10 of the rate; nearly exact, since all share the noise."""
    return {lr: training(0.5 + (math.log10(lr) - best) ** 2) for lr in rates}


def test_the_final_loss_is_the_mean_of_the_last_fifth() -> None:
    losses = np.random.default_rng(1).normal(size=STEPS).tolist()
    assert final_loss(losses, STEPS) == pytest.approx(sum(losses[80:]) / 20)
    assert final_loss(losses, 50) == pytest.approx(sum(losses[40:50]) / 10)
    assert final_loss(losses[:99], STEPS) == math.inf  # it exploded
    assert final_loss([*losses[:99], math.nan], STEPS) == math.inf
    assert final_loss([1.0, 2.0], 2) == 2.0


@pytest.mark.parametrize("best", [-2.6, -2.2, -2.0, -1.9])
def test_the_lowest_point_of_a_parabola_is_found_between_the_rates(best: float) -> None:
    found = choose_rate(parabola(best), STEPS, UNTRAINED)
    assert found.lr is not None
    assert found.interval is not None
    assert math.log10(found.lr) == pytest.approx(best, abs=0.01)
    assert found.interval[0] <= found.lr <= found.interval[1]
    assert found.interval[0] <= 10**best <= found.interval[1]
    assert found.fall == pytest.approx(2.3 - 0.5, abs=0.1)


def test_without_a_neighbour_on_one_side_the_answer_is_the_best_rate() -> None:
    rising = {lr: training(1.0 - 0.1 * i, 1e-6) for i, lr in enumerate(RATES[:3])}
    assert choose_rate(rising, STEPS, UNTRAINED).lr == pytest.approx(RATES[2])
    falling = {lr: training(0.5 + 0.1 * i, 1e-6) for i, lr in enumerate(RATES[:3])}
    assert choose_rate(falling, STEPS, UNTRAINED).lr == pytest.approx(RATES[0])


def test_among_rates_that_differ_by_their_noise_only_it_goes_half_way_to_the_middle() -> None:
    """Each has noise of its own; the lowest of them is chance, and once in a while further below than three errors."""
    chosen = []
    for seed in range(0, 200, 10):
        flat = {lr: training(0.5, 0.2, seed=seed + place) for place, lr in enumerate(RATES[:4])}
        found = choose_rate({**flat, RATES[4]: training(1.5, 0.2, seed=seed + 9)}, STEPS, UNTRAINED)
        assert found.lr is not None
        if found.tied is not None:
            final = final_losses(flat, STEPS)
            places = [math.log10(lr) for lr in final]
            best = min(places, key=lambda place: final[RATES[places.index(place)]])
            tied = [place for lr, place in zip(final, places, strict=True) if found.tied[0] <= lr <= found.tied[1]]
            lowest = 2 * math.log10(found.lr) - float(np.mean(tied))
            chosen.append(lowest)
            assert len(tied) >= 3
            assert abs(lowest - best) <= 0.25 + 1e-6  # the parabola's point is within half a step of the best
        tilted = {lr: training(0.5 + 0.3 * place, 0.2, seed=seed + place) for place, lr in enumerate(RATES[:4])}
        assert choose_rate(tilted, STEPS, UNTRAINED).lr == pytest.approx(RATES[0])
        assert choose_rate(tilted, STEPS, UNTRAINED).tied is None
    assert len(chosen) >= 18
    assert max(chosen) - min(chosen) > 1  # any of them is the luckiest


def test_tied_rates_are_neighbours_that_are_compared_step_by_step() -> None:
    """Over the same batches a small difference is certain; a rate beyond a worse one is no neighbour."""
    shared = {lr: training(0.5 + 0.001 * place, 0.2) for place, lr in enumerate(RATES)}
    assert tied_rates(shared, final_losses(shared, STEPS)) == RATES[:1]
    finals = (0.5, 0.5, 1.5, 0.5, 0.49)
    own = {lr: training(final, 0.2, seed=place) for place, (lr, final) in enumerate(zip(RATES, finals, strict=True))}
    found = final_losses(own, STEPS)
    best = min(found, key=lambda lr: found[lr])
    assert tied_rates(own, found) == (RATES[:2] if best in RATES[:2] else RATES[3:])
    exploded = {**own, best: own[best], RATES[2]: [2.3, math.nan]}
    assert RATES[2] not in tied_rates(exploded, final_losses(exploded, STEPS))


@pytest.mark.parametrize(("decays", "drift"), [(True, 0.025), (False, 0.15)])
def test_a_longer_training_gets_a_lower_rate(decays: bool, drift: float) -> None:
    found = [
        math.log10(choose_rate(parabola(-2.1), STEPS, UNTRAINED, doublings=d, decays=decays).lr or 0)
        for d in (0, 1, 2.5, 4, math.inf)
    ]
    assert [found[0] - x for x in found] == pytest.approx([drift * d for d in (0, 1, 2.5, 4, 4)])


def test_steps_that_get_longer_by_themselves_get_a_lower_rate() -> None:
    unchanged = choose_rate(parabola(-2.1), STEPS, UNTRAINED).lr or 0
    assert choose_rate(parabola(-2.1), STEPS, UNTRAINED, lengthening=2.5).lr == pytest.approx(unchanged / 2.5)


def test_many_passes_over_the_data_get_a_lower_rate() -> None:
    found = [
        math.log10(choose_rate(parabola(-2.1), STEPS, UNTRAINED, passes=passes).lr or 0)
        for passes in (0.1, 1, 10, 20, 40, 160, math.inf)
    ]
    assert [found[0] - x for x in found] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.4, 0.4])


def test_a_shorter_training_is_compared_over_its_own_steps() -> None:
    """Ended where both had fallen by the same share, it stands as far above the best as it stood there."""
    whole = parabola(-2.0, RATES[1:4])
    cut = {**whole, RATES[3]: whole[RATES[3]][:30]}
    final = final_losses(cut, STEPS)
    assert list(final) == RATES[1:4]
    gap = np.mean(whole[RATES[3]][24:30]) - np.mean(whole[RATES[2]][24:30])
    assert final[RATES[3]] == pytest.approx(final_loss(whole[RATES[2]], STEPS) + gap)
    assert {lr: final[lr] for lr in RATES[1:3]} == {lr: final_loss(whole[lr], STEPS) for lr in RATES[1:3]}
    found = choose_rate(cut, STEPS, UNTRAINED)
    assert math.log10(found.lr or 0) == pytest.approx(-2.0, abs=0.15)


def test_a_shorter_training_that_is_ahead_is_the_best() -> None:
    losses = {RATES[0]: training(1.5, 1e-3), RATES[1]: training(1.0, 1e-3), RATES[2]: training(0.5, 1e-3)[:60]}
    final = final_losses(losses, STEPS)
    assert min(final, key=lambda lr: final[lr]) == RATES[2]
    assert choose_rate(losses, STEPS, UNTRAINED).lr == pytest.approx(RATES[2])


def test_a_training_without_a_whole_one_beside_it_is_taken_for_exploded() -> None:
    assert final_losses({0.1: [2.3, 2.2], 1.0: []}, STEPS) == {0.1: math.inf, 1.0: math.inf}
    assert final_losses({0.1: training(1.0), 1.0: [2.3, math.nan]}, STEPS)[1.0] == math.inf


@pytest.mark.parametrize("warm_up", [0.0, 0.03, 0.05, 0.3, 0.95])
def test_a_short_training_has_the_schedule_of_the_first_steps_and_reaches_its_peak(warm_up: float) -> None:
    """Against the rates of the planned training, one for each of its steps."""
    planned, steps = 1000, 100
    shape = np.minimum(1.0, np.arange(planned) / max(1.0, warm_up * planned - 1))
    shape[int(warm_up * planned) :] -= 0.5 * np.arange(planned - int(warm_up * planned)) / planned
    progress = np.array([progress_of(step, steps, planned, warm_up) for step in range(steps)])
    assert (np.diff(progress) > 0).all()
    if warm_up <= 0.05:
        assert (progress * planned).astype(int).tolist() == list(range(steps))
    rates = shape[(progress * planned).astype(int)]
    half = steps // 2
    assert rates.max() == pytest.approx(1.0, abs=0.03)
    assert rates[half:].min() >= shape[int(warm_up * planned) : int(warm_up * planned) + steps].min() - 1e-9
    assert max(progress_of(step, steps, None, warm_up) for step in range(steps)) == pytest.approx(warm_up, abs=0.01)


def test_an_exploded_training_counts_as_no_progress() -> None:
    losses = {**parabola(-2.0, RATES[1:3]), RATES[3]: [2.3, 9.0, 80.0]}
    found = choose_rate(losses, STEPS, UNTRAINED)
    assert found.lr is not None
    assert RATES[1] < found.lr < RATES[3]
    assert found.interval is not None
    assert found.interval[1] < RATES[3]


def test_nothing_learned_is_refused_with_what_was_seen() -> None:
    noise = np.random.default_rng(3)
    losses = {lr: noise.normal(2.3, 0.05, STEPS).tolist() for lr in RATES}
    found = choose_rate(losses, STEPS, UNTRAINED)
    assert found.lr is found.interval is None
    assert "No short training lowered the loss by more than its noise: 2.297 before, 2.301 at best" in (
        found.reason or ""
    )
    exploded = choose_rate({lr: [2.3, 50.0] for lr in RATES}, STEPS, UNTRAINED)
    assert exploded.reason == (
        "Every short training exploded, at rates from 0.001 to 0.1, also at the lowest: look for NaN in the"
        " data or the model; if there is none, try lower rates."
    )
    one = choose_rate({2e-7: [2.3, math.nan]}, STEPS, UNTRAINED)
    assert one.reason == (
        "The short training at the lowest rate, 2e-07, exploded: look for NaN in the data or the model;"
        " if there is none, try lower rates."
    )


def test_noise_alone_is_refused_nearly_always() -> None:
    """All trainings share their batches, and differ in the small noise of their weights."""
    wrong = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        batches = random.normal(0, 0.3, STEPS)
        losses = {lr: (2.3 + batches + random.normal(0, 0.02, STEPS)).tolist() for lr in RATES[:3]}
        wrong += choose_rate(losses, STEPS, random.normal(2.3, 0.3, 40).tolist()).lr is not None
    assert wrong <= 8


def test_a_fall_below_the_noise_of_a_batch_is_seen_on_the_same_batches() -> None:
    random = np.random.default_rng(5)
    batches = random.normal(0, 1.0, STEPS)
    losses = {
        lr: (2.3 + batches - fall * np.linspace(0, 1, STEPS) + random.normal(0, 0.02, STEPS)).tolist()
        for lr, fall in zip(RATES[:3], (0.02, 0.3, 0.1), strict=True)
    }
    untrained = random.normal(2.4, 1.0, 40).tolist()
    found = choose_rate(losses, STEPS, untrained)
    assert found.lr == pytest.approx(RATES[1], rel=0.8)


def climb(loss, first: float, lowest: float = 1e-9, highest: float = 1e3, unchanged=None) -> list[float]:
    """The rates that are tried for a function of the rate."""
    final: dict[float, float] = {}
    while (lr := next_rate(final, first, lowest, highest, unchanged)) is not None:
        assert lr not in final
        final[lr] = loss(lr)
    return list(final)


@pytest.mark.parametrize("best", np.linspace(-6, 1, 29).tolist())
def test_the_best_rate_ends_between_two_others(best: float) -> None:
    tried = climb(lambda lr: (math.log10(lr) - best) ** 2, first=1e-2)
    exponents = sorted(math.log10(lr) for lr in tried)
    nearest = min(exponents, key=lambda x: abs(x - best))
    assert exponents[0] < nearest < exponents[-1]
    assert np.diff(exponents) == pytest.approx(0.5)
    assert len(tried) <= 4 + 2 * abs(best + 2)


def test_a_training_that_has_begun_is_at_the_neighbours_at_once() -> None:
    tried = climb(lambda lr: 2.3 + (lr - 0.1) ** 2, 1e-1, unchanged=None)
    assert tried == pytest.approx([1e-1, 1e-1 / STEP, 1e-1 * STEP])


def test_a_small_lead_of_a_higher_rate_does_not_lead_up() -> None:
    """Around a first rate that is far too high, both sides are better by chance."""
    losses = {1e-1: 2.30, 1e-1 / STEP: 2.246, 1e-1 * STEP: 2.243, 1e-2: 1.9, 1e-2 / STEP: 2.0}
    tried = climb(lambda lr: next(v for k, v in losses.items() if math.isclose(k, lr)), 1e-1, unchanged=(2.35, 2.39))
    assert tried == pytest.approx([1e-1, 1e-1 / STEP, 1e-1 * STEP, 1e-2, 1e-2 / STEP])


def test_the_first_rate_is_between_what_the_edge_and_the_lowest_loss_say() -> None:
    assert first_rate(1.0, 0.1, has_valley=True) == pytest.approx(math.sqrt(0.1 * 1.0 * 0.1 / STEP))
    assert first_rate(1.0, 0.1, has_valley=False) == pytest.approx(math.sqrt(0.05 * 1.0 * 0.1 / STEP))
    guess = first_rate(1.0, 0.1, has_valley=True)
    assert first_rate(1.0, 0.1, True, present=guess / 20) == pytest.approx(guess / 20)
    assert first_rate(1.0, 0.1, True, present=1e-9) == pytest.approx(guess / 30)
    assert first_rate(1.0, 0.1, True, present=1e3) == pytest.approx(guess * 30)


def test_the_last_two_fifths_cool_down_to_zero() -> None:
    factors = [cool_down(step, 50) for step in range(50)]
    assert factors[:30] == [1.0] * 30
    assert factors[30:] == pytest.approx([1 - (step + 0.5) / 20 for step in range(20)])


def test_explosions_lead_down_and_ends_are_kept() -> None:
    assert climb(lambda lr: math.inf if lr > 1e-4 else lr, first=1e-2, unchanged=(0.0, 9.0))[-1] <= 1e-4
    assert min(climb(lambda lr: lr, first=1e-2, lowest=0.99e-3)) == pytest.approx(1e-3)
    assert max(climb(lambda lr: -lr, first=1e-2, highest=0.2)) == pytest.approx(0.1)
    exploded = climb(lambda lr: math.inf, first=1e-2, lowest=0.99e-4, unchanged=(2.2, 2.4))
    assert exploded == pytest.approx([1e-2, 1e-3, 1e-4])


def test_while_nothing_is_learned_both_sides_are_tried_in_turn() -> None:
    low, high = unchanged_losses(UNTRAINED, STEPS)
    assert low < 2.3 < high
    assert high - low == pytest.approx(6 * 0.05 * math.sqrt(1 / 40 + 1 / 20), rel=0.3)
    unchanged = low, high
    learns_high = climb(lambda lr: 1.0 if 3 < lr < 3.3 else 2.3 if lr < 5 else 9.0, 1e-1, unchanged=unchanged)
    assert learns_high == pytest.approx([1e-1, 1e-1 / STEP, 1e-1 * STEP, 1e-2 / STEP, STEP, 1.0, 10.0])
    learns_low = climb(lambda lr: 1.0 if 3e-3 < lr < 3.3e-3 else 2.3 if lr < 0.5 else 3.0, 1e-1, unchanged=unchanged)
    assert learns_low == pytest.approx([1e-1, 1e-1 / STEP, 1e-1 * STEP, 1e-2 / STEP, 1e-3, 1e-2])
    never = climb(lambda lr: 2.3, 1e-1, lowest=0.99e-3, highest=1.01, unchanged=unchanged)
    assert never == pytest.approx([1e-1, 1e-1 / STEP, 1e-1 * STEP, 1e-2 / STEP])


def test_small_gains_on_the_same_batches_lead_up() -> None:
    """With batches of one sample nothing is below the noise of the untrained losses for long."""
    slightly = climb(lambda lr: 2.3 - lr / 100 if lr < 50 else 9.0, 1e-1, unchanged=(1.5, 3.0))
    assert slightly[:5] == pytest.approx([1e-1, 1e-1 / STEP, 1e-1 * STEP, STEP, 10 * STEP])


def test_a_loss_that_comes_back_is_seen_and_a_noisy_fall_is_none() -> None:
    random = np.random.default_rng(0)
    falls = 2.3 - 2 * np.minimum(1, np.arange(200) / 100)
    assert not rises_again((falls + random.normal(0, 0.1, 200)).tolist())
    assert not rises_again((falls + random.normal(0, 3.0, 200)).tolist())
    back = np.concatenate([falls[:120], np.linspace(0.3, 2.2, 80)])
    assert rises_again((back + random.normal(0, 0.1, 200)).tolist())
    assert rises_again([*falls[:50].tolist(), math.nan])


def test_losses_that_are_no_measure_are_refused() -> None:
    random = np.random.default_rng(2)
    signs = choose_rate(parabola(-2.0), STEPS, random.normal(0, 0.5, 40).tolist())
    assert "changes its sign" in (signs.reason or "")
    rising = {lr: training(2.3 + i, 0.02) for i, lr in enumerate(RATES, start=1)}
    assert "The loss rises at every rate from 0.001 to 0.1" in (choose_rate(rising, STEPS, UNTRAINED).reason or "")
    below_zero = {lr: [loss - 5 for loss in its] for lr, its in parabola(-2.0).items()}
    assert choose_rate(below_zero, STEPS, [loss - 5 for loss in UNTRAINED]).lr == pytest.approx(1e-2, rel=0.05)
