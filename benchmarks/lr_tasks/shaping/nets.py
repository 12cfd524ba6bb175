"""Small networks of the kinds that users train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks import datasets


def plain_cnn() -> nn.Module:
    """Three convolutions without normalisation, for 14x14 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def autoencoder() -> nn.Module:
    """196 pixels through 16 numbers."""
    return nn.Sequential(
        *(nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 16)),
        *(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 196)),
    )


def _double_conv(n_in: int, n: int) -> nn.Sequential:
    first = (nn.Conv2d(n_in, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU())
    second = (nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU())
    return nn.Sequential(*first, *second)


class UNet(nn.Module):
    """A U-Net of two levels; returns a logit per pixel."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.top = _double_conv(1, width)
        self.middle = _double_conv(width, 2 * width)
        self.bottom = _double_conv(2 * width, 4 * width)
        self.up_middle = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join_middle = _double_conv(4 * width, 2 * width)
        self.up_top = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join_top = _double_conv(2 * width, width)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        middle = self.middle(self.pool(top))
        bottom = self.bottom(self.pool(middle))
        middle = self.join_middle(torch.cat([middle, self.up_middle(bottom)], 1))
        top = self.join_top(torch.cat([top, self.up_top(middle)], 1))
        logits: Tensor = self.head(top)
        return logits


class RowGRU(nn.Module):
    """Reads an image row by row, and classifies the last state."""

    def __init__(self, size: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.gru = nn.GRU(size, hidden, batch_first=True)
        self.head = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x.squeeze(1))
        logits: Tensor = self.head(states[:, -1])
        return logits


class LetterLSTM(nn.Module):
    """Predicts the letter after a context."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        size = len(datasets.TEXT_ALPHABET)
        self.embed = nn.Embedding(size, 16)
        self.lstm = nn.LSTM(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, size)

    def forward(self, letters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(letters))
        logits: Tensor = self.head(states[:, -1])
        return logits


def small_vit() -> nn.Module:
    """Timm's ViT with dropout, for 8x8 pixels in 16 patches."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
        drop_rate=0.1,
        pos_drop_rate=0.1,
        proj_drop_rate=0.1,
    )
