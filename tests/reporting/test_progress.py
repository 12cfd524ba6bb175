"""A progress bar where the Trainer shows one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightning_hp.reporting import progress_bar


@pytest.mark.parametrize(
    ("bar", "is_global_zero", "is_shown"), [(object(), True, True), (None, True, False), (object(), False, False)]
)
def test_a_bar_is_shown_where_the_trainer_shows_one(bar, is_global_zero, is_shown, capsys):
    trainer = SimpleNamespace(progress_bar_callback=bar, is_global_zero=is_global_zero)
    with progress_bar(trainer, "Finding", "sizes") as advance:
        advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert ("Finding" in err) == is_shown
    assert ("sizes" in err) == is_shown
