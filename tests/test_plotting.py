"""What is on the picture; how it looks, a person has to see."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from lightning_hp import LRFindResult
from lightning_hp.functional import lr_range, suggest_lr
from lightning_hp.plotting import plot_lr_find
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
