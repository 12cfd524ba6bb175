"""The arguments of a memory meter; the meters themselves are tested with their devices."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_hp.memory import memory_meter


@pytest.mark.parametrize("share", [0, 1.01, -1, float("nan"), float("inf"), 10**400])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="Expected `share` to be a number > 0 and <= 1"):
        memory_meter("cpu", share=share)


@pytest.mark.parametrize("share", [None, "0.5", True, [], {}, object()])
def test_a_share_that_is_no_number_is_refused(share: Any) -> None:
    with pytest.raises(TypeError, match="Expected `share` to be a number > 0 and <= 1"):
        memory_meter("cpu", share=share)
