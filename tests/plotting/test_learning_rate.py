"""What plot_learning_rate draws. Whether it looks clear is for a person to judge."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_hp import LearningRateResult
from lightning_hp.functional import choose_rate, lr_range, suggest_lr
from lightning_hp.plotting import plot_learning_rate, plot_short_trainings
from tests.plotting.drawn import draw, lines, texts
from tests.test_public_api import run_fresh

LRS = lr_range(1e-7, 10, 112)


def sweep(seed=0, lrs=LRS):
    losses = 2.3 - 2 / (1 + (1e-3 / lrs) ** 2) + (lrs / 0.3) ** 4
    return losses + np.random.default_rng(seed).normal(0, 0.02, len(lrs))


def result(losses=None, lrs=LRS, lr_before=1e-4, **kwargs):
    losses = sweep() if losses is None else losses
    return LearningRateResult.from_range_test(lrs, losses, suggest_lr(lrs, losses), lr_before=lr_before, **kwargs)


def test_the_title_tells_the_answer():
    ax = plot_learning_rate(result())
    assert ax.get_title(loc="left") == f"Suggested learning rate {result().suggestion:.3g}"
    assert texts(ax)[-1].startswith("two thirds of the fall; ")
    assert ax.get_xscale() == "log"
    draw(ax)


def test_every_repeat_and_the_smooth_curve_are_drawn():
    found = result(np.stack([sweep(seed) for seed in range(3)]))
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in plot_learning_rate(found).get_lines()]
    for wanted in (*found.losses, found.smoothed):
        assert any(len(y) == 112 and np.array_equal(y, wanted, equal_nan=True) for y in drawn)


def test_the_suggestion_stands_on_the_curve_and_in_its_band():
    found = result()
    ax = plot_learning_rate(found)
    (line,) = [line for line in lines(ax) if list(line.get_xdata()) == [found.suggestion] * 2]
    (dot,) = lines(ax, color=line.get_color(), marker="o")
    assert dot.get_xdata()[0] == found.suggestion
    assert dot.get_ydata()[0] == pytest.approx(np.interp(np.log10(found.suggestion), np.log10(LRS), found.smoothed))
    spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches)
    assert spans == [pytest.approx(found.interval), pytest.approx((found.edge, 10.0))]


@pytest.mark.parametrize("rule", ["fall", "one_cycle", "minimum"])
def test_all_other_rules_are_named(rule):
    found = result(rule=rule)
    ax = plot_learning_rate(found)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    others = [f"{name}  {lr:.3g}" for name, lr in found.rules.items() if name != rule]
    assert names == [*others, f"past the edge, {found.edge:.3g}"]
    draw(ax)


def test_an_explosion_leaves_the_picture():
    calm, wild = sweep(), np.where(LRS > 1, 1e9, sweep())
    low, high = plot_learning_rate(result(wild)).get_ylim()
    assert high < 4
    assert low == pytest.approx(plot_learning_rate(result(calm)).get_ylim()[0], abs=0.05)


def test_before_and_used_are_marked():
    found = result()
    assert {"before 0.0001", "used 0.002"} <= set(texts(plot_learning_rate(found.with_used(0.002))))
    assert "used 0.0001 (unchanged)" in texts(plot_learning_rate(found))


@pytest.mark.parametrize(("lr", "marker"), [(0.0, "<"), (1e-12, "<"), (1e-3, "^"), (100.0, ">")])
def test_a_rate_outside_the_range_is_an_arrow_at_its_end(lr, marker):
    ax = plot_learning_rate(result(lr_before=lr))
    assert len(lines(ax, marker=marker)) == 1
    assert ax.get_xlim() == (1e-7, 10.0)
    draw(ax)


def test_a_refusal_shows_its_reason():
    noise = np.random.default_rng(0).normal(2.3, 0.1, 112)
    ax = plot_learning_rate(result(noise))
    assert ax.get_title(loc="left") == "No learning rate suggested"
    assert texts(ax)[-1].replace("\n", " ") == result(noise).reason
    assert ax.patches == [] or len(ax.patches) == 0
    draw(ax)


@pytest.mark.parametrize("finite", [0, 1, 5])
def test_a_sweep_of_nearly_nothing_is_drawn(finite):
    draw(plot_learning_rate(result(np.where(np.arange(112) < finite, 2.3, np.nan))))


@pytest.mark.parametrize("level", [0.0, -3.0, 1e-9])
def test_a_constant_loss_is_drawn(level):
    draw(plot_learning_rate(result(np.full(112, level))))


def test_a_zoomed_sweep_is_drawn_too():
    lrs = lr_range(1e-5, 1, 70)
    found = result().with_zoom(lrs, sweep(1, lrs), suggest_lr(lrs, sweep(1, lrs)))
    ax = plot_learning_rate(found)
    assert any(
        np.array_equal(line.get_ydata(), found.zoom_smoothed) for line in ax.get_lines() if len(line.get_xdata()) == 70
    )
    draw(ax)


def test_a_mark_lies_on_the_curve_that_was_read():
    """The second sweep for the suggestion, and the first for the rules of other tools."""
    lrs = lr_range(1e-5, 1, 70)
    shifted = sweep(1, lrs) - 0.5
    found = result().with_zoom(lrs, shifted, suggest_lr(lrs, shifted))
    ax = plot_learning_rate(found)
    marks = {line.get_xdata()[0]: line.get_ydata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 1}
    for name in ("fall", "half", "one_cycle"):
        lr = found.rules[name]
        assert marks[lr] == pytest.approx(np.interp(np.log10(lr), np.log10(lrs), found.zoom_smoothed))
    for name in ("steepest", "minimum"):
        lr = found.rules[name]
        assert marks[lr] == pytest.approx(np.interp(np.log10(lr), np.log10(LRS), found.smoothed))
    assert ax.get_ylim()[0] < min(found.zoom_smoothed)
    (legend,) = ax.artists
    assert [text.get_text() for text in legend.get_texts()] == ["first sweep", "second sweep, read"]


def test_a_second_sweep_that_is_not_read_moves_no_mark():
    lrs = lr_range(1e-5, 1, 70)
    found = result().with_zoom(lrs, np.full(70, 2.3), suggest_lr(lrs, np.full(70, 2.3)))
    ax = plot_learning_rate(found)
    marks = {line.get_xdata()[0]: line.get_ydata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 1}
    height = np.interp(np.log10(found.suggestion), np.log10(LRS), found.smoothed)
    assert marks[found.suggestion] == pytest.approx(height)
    (legend,) = ax.artists
    assert [text.get_text() for text in legend.get_texts()] == ["first sweep, read", "second sweep"]


RATES = [(1e-4, 0.002), (0.002, 1e-4), (0.001, 0.002), (2e-7, 5e-7), (5.0, 8.0), (100.0, 9.0), (0.0, 1e-7)]


@pytest.mark.parametrize(("before", "used"), RATES)
def test_labels_overlap_neither_each_other_nor_a_curve(before, used):
    lrs = lr_range(1e-5, 1, 70)
    found = result(lr_before=before).with_zoom(lrs, sweep(1, lrs), suggest_lr(lrs, sweep(1, lrs))).with_used(used)
    ax = plot_learning_rate(found)
    draw(ax)
    first, second = (text.get_window_extent() for text in ax.texts if text.get_text().startswith(("before ", "used ")))
    assert not first.overlaps(second)
    for label in (first, second):
        assert label.x0 >= ax.bbox.x0
        assert label.x1 <= ax.bbox.x1
        for curve in (
            zip(found.lrs, found.smoothed, strict=True),
            zip(found.zoom_lrs, found.zoom_smoothed, strict=True),
        ):
            assert not any(label.contains(*point) for point in ax.transData.transform(list(curve)))


def test_the_legends_are_inside_the_figure():
    lrs = lr_range(1e-5, 1, 70)
    losses = np.stack([sweep(seed, lrs) for seed in range(3)])
    ax = plot_learning_rate(result().with_zoom(lrs, losses, suggest_lr(lrs, losses)))
    draw(ax)
    (sweeps,) = ax.artists
    assert [text.get_text() for text in sweeps.get_texts()][-1] == "suggested per repeat"
    upper, lower = (legend.get_window_extent() for legend in (ax.get_legend(), sweeps))
    assert max(upper.x1, lower.x1) <= ax.figure.bbox.x1
    assert lower.y1 < upper.y0


@pytest.mark.parametrize("value", [None, "3", b"x", 3.0, True, [], {}, object(), LRS])
def test_a_wrong_argument_is_a_sentence(value):
    with pytest.raises(TypeError, match=r"^Expected `result` to be a LearningRateResult, but got"):
        plot_learning_rate(value)
    if value is not None:
        with pytest.raises(TypeError, match=r"^Expected `ax` to be a matplotlib Axes, or None, but got"):
            plot_learning_rate(result(), value)
        with pytest.raises(TypeError, match=r"^Expected `ax` to be a matplotlib Axes, or None, but got"):
            result().plot(value)


def test_the_note_is_on_the_picture():
    lrs = lr_range(1e-7, 1e-1, 84)
    found = result(2.3 - 2 / (1 + (1e-3 / lrs) ** 2), lrs)
    assert found.note in texts(plot_learning_rate(found))[-1].replace("\n", " ")


def test_it_draws_where_it_is_told_and_keeps_out_of_pyplot():
    ax = Figure().subplots()
    assert plot_learning_rate(result(), ax) is ax
    assert isinstance(plot_learning_rate(result()).figure, Figure)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_matplotlib_is_loaded_when_something_is_drawn():
    code = "import sys, lightning_hp.plotting; print('matplotlib' in sys.modules)"
    assert run_fresh(code) == "False"


# --- short trainings


def trained(**kwargs):
    trainings = {
        lr: [2.3 - fall * step / 50 for step in range(50)] for lr, fall in ((0.01, 1.0), (0.03, 1.5), (0.1, 0.5))
    }
    return result().with_trainings(
        {**trainings, 0.3: [2.3, 9.0]}, choose_rate(trainings, 50, [2.3, 2.31, 2.29]), **kwargs
    )


def test_each_short_training_is_a_curve_and_the_check_another():
    found = trained(checked_losses=np.linspace(2.3, 0.5, 80).tolist())
    ax = plot_short_trainings(found)
    curves = [line for line in ax.get_lines() if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in curves] == [50, 50, 50, 2, 80]
    # A moving average of a straight line is the line.
    assert curves[0].get_ydata() == pytest.approx(found.trained_losses[0])
    labels = [text.get_text().split() for text in ax.get_legend().get_texts()]
    assert [label[0] for label in labels] == ["0.01", "0.03", "0.1", "0.3", f"{found.suggestion:.3g}"]
    assert labels[0][1] == f"{np.mean(found.trained_losses[0][40:]):.4g}"
    assert labels[3][1] == "exploded"
    draw(ax)


def test_a_training_that_had_no_more_steps_has_not_exploded():
    cut = {0.01: [2.3 - step / 50 for step in range(50)], 0.03: [2.3 - 2 * step / 50 for step in range(20)]}
    found = result().with_trainings(cut, choose_rate(cut, 50, [2.3, 2.31, 2.29]))
    labels = [text.get_text().split() for text in plot_short_trainings(found).get_legend().get_texts()]
    assert labels[1] == ["0.03", f"{np.mean(cut[0.03][16:]):.4g}"]


def test_the_figure_of_a_search_has_both_and_given_axes_only_the_range_test():
    figure = plot_learning_rate(trained()).figure
    assert [ax.get_title(loc="left").split()[0] for ax in figure.axes] == ["Suggested", "Short"]
    ax = Figure().subplots()
    assert plot_learning_rate(trained(), ax) is ax
    assert len(ax.figure.axes) == 1


def test_without_short_trainings_there_is_nothing_to_plot():
    with pytest.raises(
        ValueError, match="Expected `result` to be a result with short trainings, but got 'one without'"
    ):
        plot_short_trainings(result())
