"""Small data and models for the tests of the classifier."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.training import NUM_CLASSES, NUM_FEATURES, make_samples

FEATURES = 12

#: The options of the article that this library implements.
NN_OPTIONS_DICT = {
    "n_hidden_layers": 1,
    "n_hidden_units": 64,
    "use_dropout": False,
    "dropout_val": 0.2,
    "use_activation_fn": True,
    "activation_fn": nn.ReLU(),
}


def body() -> nn.Module:
    """A model that returns features, with batch normalisation."""
    return nn.Sequential(
        nn.Linear(NUM_FEATURES, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.Tanh()
    )


class Body(nn.Sequential):
    """The same model as a class, for YAML."""

    def __init__(self) -> None:
        super().__init__(*body())


def pairs(num_samples: int = 96, task: str = "multiclass") -> TensorDataset:
    features, labels = make_samples(num_samples)
    if task == "binary":
        labels = (labels == 0).long()
    if task == "multilabel":
        labels = torch.stack([labels == 0, labels != 1, features[:, 0] > 0], 1).long()
    return TensorDataset(features, labels)


def loader(batch_size: int = 16, shuffle: bool = False, **kwargs: Any) -> DataLoader:
    return DataLoader(pairs(**kwargs), batch_size=batch_size, shuffle=shuffle)


class Mappings(Dataset):
    """Samples as Hugging Face makes them: token ids, a mask, labels."""

    def __init__(self, num_samples: int = 32) -> None:
        generator = torch.Generator().manual_seed(5)
        self.ids = torch.randint(2, 50, (num_samples, 7), generator=generator)
        self.labels = self.ids[:, 0] % NUM_CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": self.labels[index]}


class DataModule(pl.LightningDataModule):
    """A datamodule whose loaders use its batch size."""

    def __init__(self, batch_size: int = 16, num_samples: int = 96) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(pairs(self.hparams.num_samples), self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(pairs(32), self.hparams.batch_size)


def quiet(**kwargs: Any) -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        **kwargs,
    }
