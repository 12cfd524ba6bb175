"""Rendered text of the blind tasks: symbols of mathematics, strings of letters, and the fonts of words."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.datasets import Split

SYMBOLS = "∀∂∃∇∈∉∋∏∑∓∘√∝∞∠∧∩∫≈≠≡≤≥⊂⊃⊆⊇⊕⊗⊥←↑→↓↔"

_SYMBOL_TEST_FONTS = ("DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneral")
_SYMBOL_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneralBol"),
)

#: The classes of `fonts`.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBolIta", "cmr10", "cmss10", "cmti10", "cmtt10"),
)


def _draw(text: str, font: str, size: int, shape: tuple[int, int], random: np.random.RandomState) -> np.ndarray:
    """White text in the middle of a black image of a height and a width, turned and moved a little."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    image = Image.new("L", shape[::-1], 0)
    place = (shape[1] // 2, shape[0] // 2)
    ImageDraw.Draw(image).text(place, text, font=ImageFont.truetype(str(path), size), fill=255, anchor="mm")
    shift = (random.randint(-3, 4), random.randint(-3, 4))
    turned = image.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR, translate=shift)
    return np.asarray(turned, dtype=np.float32) / 255.0


def _noisy(random: np.random.RandomState, x: Tensor, noise: float) -> Tensor:
    return x + noise * torch.from_numpy(random.standard_normal(x.shape)).float()


@lru_cache(maxsize=1)
def symbols() -> Split:
    """35 symbols of mathematics, noisy grey images of 16x16 pixels; 3360 and 630, which are of three other fonts."""
    random = np.random.RandomState(100)

    def render(fonts: tuple[str, ...], variants: int) -> tuple[Tensor, Tensor]:
        pixels, labels = [], []
        for font in fonts * variants:
            for label, symbol in enumerate(SYMBOLS):
                pixels.append(_draw(symbol, font, random.randint(18, 29), (32, 32), random))
                labels.append(label)
        x = avg_pool2d(torch.from_numpy(np.stack(pixels))[:, None], 2)
        return (_noisy(random, x, 0.1) - 0.15) / 0.3, torch.tensor(labels)

    return Split(*render(_SYMBOL_FONTS, 12), *render(_SYMBOL_TEST_FONTS, 6))


#: Letters in an image of `captchas`, and how many there are.
LETTERS, ALPHABET = 3, "abdefhkmrsxyz"


@lru_cache(maxsize=1)
def captchas() -> Split:
    """Three of 13 letters in one of two fonts, crossed by a line; 5120 and 500 images of 20x48 pixels."""
    from PIL import Image, ImageDraw

    random = np.random.RandomState(101)
    fonts = ("DejaVuSans-Bold", "DejaVuSerif-Bold")

    def render(count: int) -> tuple[Tensor, Tensor]:
        pixels, labels = np.zeros((count, 20, 48), np.float32), random.randint(0, len(ALPHABET), (count, LETTERS))
        for image, codes in zip(pixels, labels, strict=True):
            font = fonts[random.randint(2)]
            for i, code in enumerate(codes):
                letter = _draw(ALPHABET[code], font, random.randint(14, 19), (20, 20), random)
                left = 13 * i + random.randint(0, 3)
                image[:, left : left + 20] = np.maximum(image[:, left : left + 20], letter)
            line = Image.new("L", (48, 20), 0)
            ImageDraw.Draw(line).line([(0, random.randint(20)), (47, random.randint(20))], fill=200, width=1)
            image[:] = np.maximum(image, np.asarray(line, dtype=np.float32) / 255.0)
        x = torch.from_numpy(pixels)[:, None]
        return (_noisy(random, x, 0.1) - 0.2) / 0.3, torch.from_numpy(labels)

    return Split(*render(5120), *render(500))


@lru_cache(maxsize=1)
def fonts() -> Split:
    """Twelve fonts of four random letters, three equal channels normalised like ImageNet, 24x48; 720 and 300."""
    random = np.random.RandomState(102)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def render(count: int) -> tuple[Tensor, Tensor]:
        pixels, labels = [], torch.arange(count) % len(FONTS)
        for label in labels.tolist():
            word = "".join(random.choice(list(string.ascii_lowercase), 4))
            pixels.append(_draw(word, FONTS[label], random.randint(15, 20), (24, 48), random))
        x = _noisy(random, torch.from_numpy(np.stack(pixels))[:, None], 0.1)
        return (1 - x - mean[:, None, None]) / std[:, None, None], labels

    return Split(*render(720), *render(300))
