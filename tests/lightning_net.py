"""The module of `tests.training` in the other package of Lightning, which not every environment has."""

from __future__ import annotations

import lightning.pytorch

from tests.training import NetSteps


class LightningNet(NetSteps, lightning.pytorch.LightningModule):
    """The same module of `lightning.pytorch`."""
