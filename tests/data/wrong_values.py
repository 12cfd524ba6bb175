"""Values of every kind, each of which is wrong for most arguments."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch

WRONG_VALUES: list[Any] = [
    None, "3", b"x", 3.5, True, float("nan"), float("inf"), 10**400, -(10**400), Fraction(7, 2), [], {}, object(),
    torch.tensor(3), np.array(3), np.array([]), np.array([[1.5]]),
]  # fmt: skip
WRONG_IDS = [f"{type(value).__name__}-{index}" for index, value in enumerate(WRONG_VALUES)]
