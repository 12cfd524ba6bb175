"""What plot_batch_size draws. Whether it looks clear is for a person to judge."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from lightning_hp import BatchBound, BatchSizeResult, BatchTrial
from lightning_hp.plotting import plot_batch_size
from tests.plotting.drawn import draw, lines, texts


def result(trials, batch_size=64, before=32, bounds=(), **changes):
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
    found = result(ladder(32, 64), lr_before=0.1, lr_scaled=0.2, lr_rule="linear")
    above, below = plot_batch_size(found)
    assert above.get_title(loc="left") == "Batch size 64"
    assert texts(above) == ["decided by throughput · 64 samples per optimizer step · learning rate 0.1 → 0.2 (linear)"]
    assert above.figure is below.figure
    draw(above)


def test_the_answer_and_every_bound_that_has_a_size_are_lines():
    for ax in plot_batch_size(result(ladder(8, 32, 64, 128), bounds=BOUNDS)):
        assert uprights(ax) == [64, 330, 2000]
    above, _ = plot_batch_size(result(ladder(8, 32, 64, 128), bounds=BOUNDS))
    names = [text.get_text() for text in above.get_legend().get_texts()]
    assert names == ["memory: at most 330", "data: at most 2000"]
    assert above.get_xlim()[1] < 330  # what was tried is shown; what lies outside is named


def test_every_trial_is_a_dot_and_the_medians_are_a_line():
    trials = [*ladder(32, 64), BatchTrial(64, True, 10.0, 2**20), BatchTrial(64, True, 300.0, 2**20)]
    above, below = plot_batch_size(result(trials))
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
    _, below = plot_batch_size(result([*ladder(64, 128), *failed]))
    (crosses,) = lines(below, marker="x")
    assert list(zip(crosses.get_xdata(), crosses.get_ydata(), strict=True)) == [(300, 1900.0), (512, 1900.0)]
    assert "did not fit" in texts(below)
    draw(below)
    _, below = plot_batch_size(result(ladder(64)))
    assert "did not fit" not in texts(below)


@pytest.mark.parametrize("failed", [(), (BatchTrial(512, False, reason="out of memory"),)])
def test_memory_that_is_not_known_has_no_scale(failed):
    _, below = plot_batch_size(result([*ladder(32, 64, peaks=False), *failed]))
    assert list(below.get_yticks()) == []
    assert "not known on this device" in texts(below)
    draw(below)


@pytest.mark.parametrize(("size", "side"), [(32, "left"), (1024, "right")])
def test_where_the_training_stood_is_marked_inside(size, side):
    _, below = plot_batch_size(result(ladder(32, 64, 1024), before=size))
    (mark,) = lines(below, marker="^")
    (label,) = [text for text in below.texts if text.get_text() == f"before {size}"]
    assert (mark.get_xdata()[0], label.get_ha()) == (size, side)
    draw(below)


@pytest.mark.parametrize("largest", [1, 3, 8192, 2**20])
def test_the_sizes_are_written_as_numbers_of_which_there_is_room_for(largest):
    sizes = [2**power for power in range(largest.bit_length())]
    _, below = plot_batch_size(result(ladder(*sizes, largest), batch_size=largest, before=1))
    labels = [label.get_text() for label in below.get_xticklabels()]
    assert max(map(int, labels)) == 2 ** math.ceil(math.log2(largest))
    assert 1 <= len(labels) <= 12
    assert below.get_xlim()[0] < 1 <= largest < below.get_xlim()[1]
    draw(below)


def test_a_batch_size_is_drawn_where_it_is_told():
    axes = tuple(Figure().subplots(2, 1))
    assert plot_batch_size(result(ladder(32, 64)), axes) == axes


@pytest.mark.parametrize("value", [None, "3", b"x", 3.0, True, [], {}, object(), [None, None], [1, 2], torch.tensor(1)])
def test_a_wrong_argument_is_a_sentence(value):
    with pytest.raises(TypeError, match=r"^Expected `result` to be a BatchSizeResult, but got"):
        plot_batch_size(value)
    if value is not None:
        for plot in (lambda axes: plot_batch_size(result(ladder(32)), axes), result(ladder(32)).plot):
            with pytest.raises((TypeError, ValueError), match=r"^Expected `axes` to be .* or None, but got"):
                plot(value)


def test_an_array_of_axes_is_accepted():
    axes = Figure().subplots(2, 1)
    assert plot_batch_size(result(ladder(32, 64)), axes) == tuple(axes)
    with pytest.raises(ValueError, match=r"^Expected `axes` to be two matplotlib Axes"):
        plot_batch_size(result(ladder(32, 64)), Figure().subplots(3, 1))


def test_the_label_of_the_size_before_is_below_the_curve():
    _, below = plot_batch_size(result(ladder(8, 16, 1024), before=8))
    draw(below)
    (label,) = [text.get_window_extent() for text in below.texts if text.get_text() == "before 8"]
    for ax_line in lines(below, marker="o"):
        points = below.transData.transform(list(zip(ax_line.get_xdata(), ax_line.get_ydata(), strict=True)))
        assert label.y1 < points[:, 1].min()
    assert min(below.get_yticks()) == 0
