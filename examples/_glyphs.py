"""62 classes of images without a download: digits and letters in the fonts that are part of matplotlib."""

from __future__ import annotations

import random
import string
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CLASSES = string.digits + string.ascii_letters
SIZE = 64

# No font is in two parts. Each validation and test font has a related font among the training fonts.
FONTS = {
    "train": (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"),
        *("DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-BoldItalic", "STIXGeneralItalic", "STIXGeneralBol"),
        *("cmr10", "cmb10", "cmti10", "cmtt10"),
    ),
    "val": ("DejaVuSans-Oblique", "DejaVuSerif-Bold", "STIXGeneralBolIta"),
    "test": ("DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneral", "cmss10"),
}


def render(part: str, variants: int) -> tuple[Tensor, Tensor]:
    """Images of shape (N, 3, 64, 64), normalised like ImageNet, and labels; the same in every call.

    Args:
        part: ``"train"``, ``"val"`` or ``"test"``.
        variants: Images per class and font, each with a slightly different rotation, position and size.

    """
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    generator = random.Random(part)
    pixels, labels = [], []
    for name in FONTS[part]:
        for _ in range(variants):
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), generator.randint(38, 50))
            for label, character in enumerate(CLASSES):
                pixels.append(_draw(character, font, generator))
                labels.append(label)
    gray = torch.from_numpy(np.stack(pixels)).float().div(255)[:, None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (gray - mean[:, None, None]) / std[:, None, None], torch.tensor(labels)


def _draw(character: str, font: ImageFont.FreeTypeFont, generator: random.Random) -> NDArray[np.uint8]:
    image = Image.new("L", (SIZE, SIZE), 255)
    # All characters share a baseline, so that "c" and "C" differ by more than their size.
    ImageDraw.Draw(image).text((SIZE // 2, 46), character, font=font, fill=0, anchor="ms")
    shift = (generator.randint(-4, 4), generator.randint(-4, 4))
    turned = image.rotate(generator.uniform(-8, 8), Image.Resampling.BILINEAR, translate=shift, fillcolor=255)
    return np.asarray(turned, dtype=np.uint8)
