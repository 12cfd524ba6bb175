"""What is on the picture; how it looks, a person has to see."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from lightning_hp import BatchBound, BatchSizeResult, BatchTrial, LRFindResult
from lightning_hp.functional import lr_range, suggest_lr
from lightning_hp.plotting import plot_batch_size, plot_lr_find
from tests.test_public_api import run_fresh

LRS = lr_range(1e-7, 10, 112)


def sweep(seed=0, lrs=LRS):
    losses = 2.3 - 2 / (1 + (1e-3 / lrs) ** 2) + (lrs / 0.3) ** 4
    return losses + np.random.default_rng(seed).normal(0, 0.02, len(lrs))


def result(losses=None, lrs=LRS, lr_before=1e-4, **kwargs):
    losses = sweep() if losses is None else losses
    return LRFindResult.from_sweep(lrs, losses, suggest_lr(lrs, losses), lr_before=lr_before, **kwargs)


def lines(ax, color=None, **wanted):
    """The lines of that colour whose properties are as wanted."""
    return [
        line
        for line in ax.get_lines()
        if (color is None or same_color(line.get_color(), color))
        and all(getattr(line, f"get_{name}")() == value for name, value in wanted.items())
    ]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def draw(ax):
    """As it is saved: whatever cannot be drawn shows here, warnings included."""
    ax.figure.savefig(io.BytesIO(), format="png")


def test_the_title_tells_the_answer():
    ax = plot_lr_find(result())
    assert ax.get_title(loc="left") == f"Learning rate {result().suggestion:.3g}"
    assert texts(ax)[-1].startswith("two thirds of the fall · fair from")
    assert ax.get_xscale() == "log"
    draw(ax)


def test_every_repeat_and_the_smooth_curve_are_drawn():
    found = result(np.stack([sweep(seed) for seed in range(3)]))
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in plot_lr_find(found).get_lines()]
    for wanted in (*found.losses, found.smoothed):
        assert any(len(y) == 112 and np.array_equal(y, wanted, equal_nan=True) for y in drawn)


def test_the_suggestion_stands_on_the_curve_and_in_its_band():
    found = result()
    ax = plot_lr_find(found)
    (line,) = [line for line in lines(ax) if list(line.get_xdata()) == [found.suggestion] * 2]
    (dot,) = lines(ax, color=line.get_color(), marker="o")
    assert dot.get_xdata()[0] == found.suggestion
    assert dot.get_ydata()[0] == pytest.approx(np.interp(np.log10(found.suggestion), np.log10(LRS), found.smoothed))
    spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches)
    assert spans == [pytest.approx(found.interval), pytest.approx((found.edge, 10.0))]


@pytest.mark.parametrize("rule", ["fall", "one_cycle", "minimum"])
def test_all_other_rules_are_named(rule):
    found = result(rule=rule)
    ax = plot_lr_find(found)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    others = [f"{name}  {lr:.3g}" for name, lr in found.rules.items() if name != rule]
    assert names == [*others, f"past the edge, {found.edge:.3g}"]
    draw(ax)


def test_an_explosion_leaves_the_picture():
    calm, wild = sweep(), np.where(LRS > 1, 1e9, sweep())
    low, high = plot_lr_find(result(wild)).get_ylim()
    assert high < 4
    assert low == pytest.approx(plot_lr_find(result(calm)).get_ylim()[0], abs=0.05)


def test_before_and_used_are_marked():
    found = result()
    assert {"before 0.0001", "used 0.002"} <= set(texts(plot_lr_find(found.used(0.002))))
    assert "stays 0.0001" in texts(plot_lr_find(found))


@pytest.mark.parametrize(("lr", "marker"), [(0.0, "<"), (1e-12, "<"), (1e-3, "^"), (100.0, ">")])
def test_a_rate_outside_the_range_is_an_arrow_at_its_end(lr, marker):
    ax = plot_lr_find(result(lr_before=lr))
    assert len(lines(ax, marker=marker)) == 1
    assert ax.get_xlim() == (1e-7, 10.0)
    draw(ax)


def test_a_refusal_shows_its_reason():
    noise = np.random.default_rng(0).normal(2.3, 0.1, 112)
    ax = plot_lr_find(result(noise))
    assert ax.get_title(loc="left") == "No learning rate suggested"
    assert texts(ax)[-1].replace("\n", " ") == result(noise).reason
    assert ax.patches == [] or len(ax.patches) == 0
    draw(ax)


@pytest.mark.parametrize("finite", [0, 1, 5])
def test_a_sweep_of_nearly_nothing_is_drawn(finite):
    draw(plot_lr_find(result(np.where(np.arange(112) < finite, 2.3, np.nan))))


@pytest.mark.parametrize("level", [0.0, -3.0, 1e-9])
def test_a_constant_loss_is_drawn(level):
    draw(plot_lr_find(result(np.full(112, level))))


def test_a_zoomed_sweep_is_drawn_too():
    lrs = lr_range(1e-5, 1, 70)
    found = result().zoomed(lrs, sweep(1, lrs), suggest_lr(lrs, sweep(1, lrs)))
    ax = plot_lr_find(found)
    assert any(
        np.array_equal(line.get_ydata(), found.zoom_smoothed) for line in ax.get_lines() if len(line.get_xdata()) == 70
    )
    draw(ax)


def test_the_note_is_on_the_picture():
    lrs = lr_range(1e-7, 1e-1, 84)
    found = result(2.3 - 2 / (1 + (1e-3 / lrs) ** 2), lrs)
    assert found.note in texts(plot_lr_find(found))[-1].replace("\n", " ")


def test_it_draws_where_it_is_told_and_keeps_out_of_pyplot():
    ax = Figure().subplots()
    assert plot_lr_find(result(), ax) is ax
    assert isinstance(plot_lr_find(result()).figure, Figure)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_matplotlib_is_loaded_when_something_is_drawn():
    code = "import sys, lightning_hp.plotting; print('matplotlib' in sys.modules)"
    assert run_fresh(code) == "False"


# --- the batch size


def batch_result(trials, batch_size=64, before=32, bounds=(), **changes):
    found = BatchSizeResult(
        batch_size=batch_size,
        accumulate_grad_batches=1,
        world_size=1,
        decided_by="throughput",
        bounds=tuple(bounds),
        trials=tuple(trials),
        batch_size_before=before,
        batch_size_used=batch_size,
        accumulate_before=1,
        base_batch_size=before,
    )
    return replace(found, **changes)


def ladder(*sizes, peaks=True):
    return [
        BatchTrial(size, True, 480 * size / (20 + size), (200 + 6 * size) * 2**20 if peaks else None) for size in sizes
    ]


BOUNDS = (
    BatchBound("memory", "at most", 330, "free memory"),
    BatchBound("classes", "at least", None, "nothing asked"),
    BatchBound("data", "at most", 2000, "20000 samples"),
)


def uprights(ax):
    """Where vertical lines stand."""
    return sorted(line.get_xdata()[0] for line in ax.get_lines() if list(line.get_ydata()) == [0, 1])


def test_a_batch_size_is_the_title_and_how_it_came_about_the_line_below():
    found = batch_result(ladder(32, 64), lr_before=0.1, lr_scaled=0.2, lr_rule="linear")
    above, below = plot_batch_size(found)
    assert above.get_title(loc="left") == "Batch size 64"
    assert texts(above) == ["throughput decided · 64 samples for one optimizer step · learning rate 0.1 → 0.2 (linear)"]
    assert above.figure is below.figure
    draw(above)


def test_the_answer_and_every_bound_that_has_a_size_are_lines():
    for ax in plot_batch_size(batch_result(ladder(8, 32, 64, 128), bounds=BOUNDS)):
        assert uprights(ax) == [64, 330, 2000]
    above, _ = plot_batch_size(batch_result(ladder(8, 32, 64, 128), bounds=BOUNDS))
    names = [text.get_text() for text in above.get_legend().get_texts()]
    assert names == ["memory: at most 330", "data: at most 2000"]
    assert above.get_xlim()[1] < 330  # what was tried is shown; what lies outside is named


def test_every_trial_is_a_dot_and_the_medians_are_a_line():
    trials = [*ladder(32, 64), BatchTrial(64, True, 10.0, 2**20), BatchTrial(64, True, 300.0, 2**20)]
    above, below = plot_batch_size(batch_result(trials))
    dots = {line.get_xdata()[0]: sorted(line.get_ydata()) for line in lines(above, marker=".")}
    assert dots == {32: [pytest.approx(480 * 32 / 52)], 64: [10.0, 300.0, pytest.approx(480 * 64 / 84)]}
    (curve,) = lines(above, marker="o")
    assert list(curve.get_ydata()) == [pytest.approx(480 * 32 / 52), 300.0]
    (peaks,) = lines(below, marker="o")
    assert list(zip(peaks.get_xdata(), peaks.get_ydata(), strict=True)) == [(32, 392.0), (64, 1.0)]
    draw(above)


def test_sizes_that_did_not_fit_are_crosses():
    """At their peak if they reached it, else at the top."""
    failed = [BatchTrial(512, False, reason="out of memory"), BatchTrial(300, False, None, 1900 * 2**20, "too much")]
    _, below = plot_batch_size(batch_result([*ladder(64, 128), *failed]))
    (crosses,) = lines(below, marker="x")
    assert list(zip(crosses.get_xdata(), crosses.get_ydata(), strict=True)) == [(300, 1900.0), (512, 1900.0)]
    assert "did not fit" in texts(below)
    draw(below)
    _, below = plot_batch_size(batch_result(ladder(64)))
    assert "did not fit" not in texts(below)


@pytest.mark.parametrize("failed", [(), (BatchTrial(512, False, reason="out of memory"),)])
def test_memory_that_is_not_known_has_no_scale(failed):
    _, below = plot_batch_size(batch_result([*ladder(32, 64, peaks=False), *failed]))
    assert list(below.get_yticks()) == []
    assert "not known on this device" in texts(below)
    draw(below)


@pytest.mark.parametrize(("size", "side"), [(32, "left"), (1024, "right")])
def test_where_the_training_stood_is_marked_inside(size, side):
    _, below = plot_batch_size(batch_result(ladder(32, 64, 1024), before=size))
    (mark,) = lines(below, marker="^")
    (label,) = [text for text in below.texts if text.get_text() == f"before {size}"]
    assert (mark.get_xdata()[0], label.get_ha()) == (size, side)
    draw(below)


@pytest.mark.parametrize("largest", [1, 3, 8192, 2**20])
def test_the_sizes_are_written_as_numbers_of_which_there_is_room_for(largest):
    sizes = [2**power for power in range(largest.bit_length())]
    _, below = plot_batch_size(batch_result(ladder(*sizes, largest), batch_size=largest, before=1))
    labels = [label.get_text() for label in below.get_xticklabels()]
    assert max(map(int, labels)) == 2 ** math.ceil(math.log2(largest))
    assert 1 <= len(labels) <= 12
    assert below.get_xlim()[0] < 1 <= largest < below.get_xlim()[1]
    draw(below)


def test_a_batch_size_is_drawn_where_it_is_told():
    axes = tuple(Figure().subplots(2, 1))
    assert plot_batch_size(batch_result(ladder(32, 64)), axes) == axes
