"""HParamsLogger: the hyperparameters that a training uses, in every logger and on TensorBoard's HParams tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lightning_hp.callbacks.run_record import RunRecord, used_hparams
from lightning_hp.functional.checks import check_iterable, check_options, check_str, wrong_type
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class HParamsLogger(Callback):
    """Logs the hyperparameters that a training uses, once, to every logger, and fills TensorBoard's HParams tab.

    Recorded are the hyperparameters of the module and of the datamodule (``save_hyperparameters``), the learning rate
    and the batch size wherever they are kept, what ``LRFinder`` and ``BatchSizeScaler`` have set, the settings of
    ``SAM``, and ``params``. This replaces Lightning's own record in the ``fit``, so a logger that refuses to change a
    value, such as MLflow's, gets each value once.

    In the tab a run has the last value of each scalar, while it trains too, and no ``hp_metric`` of -1. A run that ends
    with an exception is marked as failed. All hyperparameters of all runs are columns, also where runs have different
    ones.

    Args:
        params: More hyperparameters of this run, a dictionary of names and values: the seed, the subjects of a sweep.
            They replace the module's own of the same name. A rate or size that a finder has set replaces them.
        metrics: Names of logged scalars that are the other columns of the tab, in this order. ``None``: those that
            other runs in the folder have named; all scalars if there are none.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a name is empty.

    Note:
        Put it into every run that is to be compared: Lightning's own record writes columns of its own, and of two kinds
        of columns TensorBoard shows one.

        With ``metrics`` the columns of all runs are in one small file ``events.out.tfevents.0.hparams`` in the
        ``save_dir`` of the ``TensorBoardLogger`` (in ``save_dir/name`` where ``save_dir`` is the working directory). A
        running TensorBoard shows columns that are new in it after a restart; without ``metrics`` it shows them at once.

        ``None``, lists, functions and objects are strings in the tab, nested dictionaries become ``outer/inner``. Other
        loggers get all values as they are.

        Where no finder has set it, a learning rate in ``hparams`` is recorded as it is: whether the optimizer follows
        it is not tested. A value that ``LRFinder`` finds at a later epoch (``milestones``) is in its scalars only.

        The callback moves itself behind the others. Of several in a Trainer the last one writes, with the ``params``
        and ``metrics`` of all.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> from lightning_hp import HParamsLogger
        >>> class Model(pl.LightningModule):
        ...     def __init__(self, width=8):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.layer = torch.nn.Linear(2, width)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.layer(batch).mean()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> class Print(pl.loggers.logger.DummyLogger):
        ...     def log_hyperparams(self, params):
        ...         print(params)
        >>> trainer = pl.Trainer(max_steps=1, callbacks=[HParamsLogger({"seed": 1})], logger=Print(),
        ...                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...                      log_every_n_steps=1, accelerator="cpu")
        >>> trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=4))
        {'width': 8, 'seed': 1, 'lr': 0.1, 'batch_size': 4}

    """

    #: Not part of a training step, and not to be observed in one.
    changes_gradients = False

    def __init__(self, params: Mapping[str, Any] | None = None, metrics: Sequence[str] | None = None) -> None:
        super().__init__()
        self.params = check_options("params", params, "a dict of names and values")
        if metrics is not None:
            what = "a list of names of logged scalars"
            if isinstance(metrics, (str, bytes)):
                wrong_type("metrics", f"{what}, or None", metrics)
            metrics = [_name(f"metrics[{i}]", m) for i, m in enumerate(check_iterable("metrics", metrics, what))]
        for name in self.params:
            _name("a name in `params`", name)
        self.metrics = metrics
        self._record = RunRecord()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Moves itself behind the callbacks that set values."""
        if stage == "fit":
            others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
            trainer.callbacks = [*others, self]  # type: ignore[attr-defined]

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the record."""
        self._start(trainer)
        self._record.replace_lightning(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switches Lightning's own record on again: it would have been written by now."""
        self._record.release(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Marks the run as failed; one that failed before the training is recorded first."""
        if trainer.state.fn == "fit":
            if not self._record.is_open:
                self._start(trainer)
            self._record.end(trainer, failed=True)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Marks the run as ended."""
        if stage == "fit":
            self._record.end(trainer, failed=False)

    def _start(self, trainer: Any) -> None:
        all_of_them = [callback for callback in trainer.callbacks if isinstance(callback, HParamsLogger)]
        if all_of_them[-1:] == [self]:
            params = {name: value for callback in all_of_them for name, value in callback.params.items()}
            named = [callback.metrics for callback in all_of_them if callback.metrics is not None]
            metrics = [name for names in named for name in names] if named else None
            self._record.start(trainer, used_hparams(trainer, params, complete=True), metrics)


def _name(name: str, value: Any) -> str:
    if not check_str(name, value):
        raise ValueError(f"Expected {name} to be a name, but got an empty str.")
    return str(value)
