"""Two finders of a kind in one Trainer."""

from __future__ import annotations

from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl

from lightning_hp import BatchSizeScaler, LRFinder
from tests.callbacks.contract import loader
from tests.lightning_net import LightningNet
from tests.training import Net

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


@pytest.mark.parametrize("kind", [LRFinder, BatchSizeScaler])
@pytest.mark.parametrize(("package", "module"), [(pl, Net), (lightning.pytorch, LightningNet)])
def test_they_are_refused_before_any_step_with_what_to_do(kind: Any, package: Any, module: Any) -> None:
    trainer, net = package.Trainer(callbacks=[kind(), kind()], max_epochs=1, **QUIET), module()
    expected = f"Expected one {kind.__name__} in a Trainer, but got 2: .* Remove all but one"
    with pytest.raises(Exception, match=expected) as raised:
        trainer.fit(net, loader(), loader())
    assert type(raised.value).__name__ == "MisconfigurationException"
    assert net.seen == []


@pytest.mark.parametrize("kind", [LRFinder, BatchSizeScaler])
def test_one_of_each_kind_keeps_its_state_in_checkpoints(kind: Any) -> None:
    trainer = pl.Trainer(callbacks=[BatchSizeScaler(), LRFinder()], max_epochs=0, **QUIET)
    trainer.fit(Net(), loader(), loader())
    assert kind.__name__ in trainer._checkpoint_connector.dump_checkpoint()["callbacks"]
