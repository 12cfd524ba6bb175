"""Images of the closed tasks: signs at a road, Armenian letters, pictograms, house numbers, scans, and cells."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.lr_tasks.blind.images_photos import photos


def _noisy(random: np.random.RandomState, x: Tensor, noise: float) -> Tensor:
    return x + noise * torch.from_numpy(random.standard_normal(x.shape)).float()


def _ink(text: str, font: str, size: int, shape: tuple[int, int], angle: float, shift: tuple[int, int]) -> Tensor:
    """Text in the middle of an image of a height and width, turned and moved, as ink from 0 to 1."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    letters = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", shape[::-1], 0)
    ImageDraw.Draw(image).text((shape[1] / 2, shape[0] / 2), text, font=letters, fill=255, anchor="mm")
    turned = image.rotate(angle, Image.Resampling.BILINEAR, translate=shift)
    return torch.tensor(np.asarray(turned), dtype=torch.float32) / 255


def _background(random: np.random.RandomState, size: int, is_test: bool) -> Tensor:
    """A square piece of a photo, standardised; those for testing are of the rightmost three tenths."""
    photo = photos()[random.randint(3)]
    height, width = photo.shape[1:]
    border = 7 * width // 10
    left = random.randint(border, width - size + 1) if is_test else random.randint(0, border - size + 1)
    top = random.randint(0, height - size + 1)
    return photo[:, top : top + size, left : left + size]


#: Corners of a sign and the angle of the first (many corners are a disc), and what may be drawn on it.
SHAPES, MARKS = ((3, -90), (3, 90), (4, -90), (4, 45), (8, 22), (40, 0)), "←→!="


@lru_cache(maxsize=1)
def signs() -> Split:
    """Signs in front of photos, noisy colour images of 16x16 pixels, 24 classes; 3200 and 720."""
    from PIL import Image, ImageDraw

    random = np.random.RandomState(130)

    def show(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        images, labels = [], random.randint(0, len(SHAPES) * len(MARKS), count)
        for label in labels.tolist():
            (corners, first), mark = SHAPES[label // len(MARKS)], MARKS[label % len(MARKS)]
            radius, middle = random.uniform(26, 36), random.uniform(34, 46, 2)
            angles = np.deg2rad(first + random.uniform(-8, 8) + 360 * np.arange(corners) / corners)
            sheet = Image.new("L", (80, 80), 0)
            outline = middle + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            ImageDraw.Draw(sheet).polygon([(u, v) for u, v in outline], fill=255)
            shift = (int(middle[0]) - 40, int(middle[1]) - 40)
            ink = _ink(mark, "DejaVuSans-Bold", int(1.1 * radius), (80, 80), random.uniform(-8, 8), shift)
            cover = torch.tensor(np.asarray(sheet), dtype=torch.float32) / 255
            cover, ink = (avg_pool2d(x[None], 5) for x in (cover, ink))
            paint, dark = torch.tensor(random.uniform(-0.2, 1.8, (3, 1, 1))).float(), random.uniform(0.6, 1.6)
            sign = paint - dark * ink
            images.append((1 - cover) * _background(random, 16, is_test) + cover * sign)
        return _noisy(random, torch.stack(images), 0.1), torch.from_numpy(labels)

    return Split(*show(3200, False), *show(720, True))


#: The classes of `armenian_letters`.
ARMENIAN = "".join(chr(code) for code in range(0x561, 0x561 + 38))


@lru_cache(maxsize=1)
def armenian_letters() -> Split:
    """38 Armenian letters, noisy grey images of 16x16 pixels; 2280 and 570, the latter of another font."""
    random = np.random.RandomState(131)

    def render(fonts: tuple[str, ...], variants: int) -> tuple[Tensor, Tensor]:
        inks = []
        for font in fonts * variants:
            for letter in ARMENIAN:
                shift = (random.randint(-3, 4), random.randint(-3, 4))
                inks.append(_ink(letter, font, random.randint(19, 27), (32, 32), random.uniform(-10, 10), shift))
        x = (avg_pool2d(torch.stack(inks)[:, None], 2) - 0.15) / 0.3
        return _noisy(random, x, 0.3), torch.arange(len(ARMENIAN)).repeat(len(fonts) * variants)

    fonts = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic")
    return Split(*render(fonts, 12), *render(("DejaVuSans-Bold",), 15))


#: The classes of `pictograms`.
PICTOGRAMS = "☀☁☂☃★☎☕☘☠☢☣☮☯♔♕♖♗♘♙♠♣♥♦♨♻⚀⚁⚂⚃⚄⚅⚒⚓⚔⚖⚙⚛✂✈✉"


@lru_cache(maxsize=1)
def pictograms() -> Split:
    """40 pictograms in some colour in front of photos, 20x20 noisy pixels of three channels; 640 and 600."""
    random = np.random.RandomState(132)

    def show(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        images, labels = [], torch.arange(count) % len(PICTOGRAMS)
        for label in labels.tolist():
            shift = (random.randint(-4, 5), random.randint(-4, 5))
            size, angle = random.randint(30, 42), random.uniform(-20, 20)
            ink = avg_pool2d(_ink(PICTOGRAMS[label], "DejaVuSans", size, (40, 40), angle, shift)[None], 2)
            paint = torch.tensor(random.uniform(0.8, 2.2, (3, 1, 1))).float()
            images.append((1 - ink) * (0.6 * _background(random, 20, is_test) - 0.6) + ink * paint)
        return _noisy(random, torch.stack(images), 0.15), labels

    return Split(*show(640, False), *show(600, True))


@lru_cache(maxsize=1)
def house_numbers() -> Split:
    """An MNIST digit between parts of two others, in two colours, noisy, (3, 16, 16); 4000 and 1000."""
    source, random = datasets.mnist(), np.random.RandomState(133)

    def paint(digits: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        digits = (digits * 0.28 + 0.13).clamp(0, 1)
        images = []
        for i in range(count):
            street = torch.zeros(1, 18, 40)
            for place, j in ((2, random.randint(len(digits))), (13, i), (24, random.randint(len(digits)))):
                top, left = random.randint(0, 4), place + random.randint(-1, 2)
                part = street[:, top : top + 14, left : left + 14]
                part.copy_(torch.maximum(part, digits[j]))
            ink, wall = street[:, 1:17, 12:28], torch.tensor(random.uniform(-1, 1, (3, 1, 1))).float()
            change = torch.tensor(random.uniform(0.5, 1.8, (3, 1, 1))).float() * random.choice([-1, 1])
            images.append(wall + change * ink)
        return _noisy(random, torch.stack(images), 0.25), labels[:count]

    return Split(*paint(*source[:2], 4000), *paint(*source[2:], 1000))


@lru_cache(maxsize=1)
def scans() -> Split:
    """Blurred, unevenly lit and noisy scans of four letters, 12x32 pixels, and their ink; 2000 and 300."""
    random = np.random.RandomState(134)
    fonts = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralItalic")

    def scan(count: int) -> tuple[Tensor, Tensor]:
        inks = []
        for _ in range(count):
            word = "".join(random.choice(list(string.ascii_lowercase), 4))
            shift, font = (random.randint(-2, 3), random.randint(-2, 3)), random.choice(fonts)
            inks.append(_ink(word, font, random.randint(10, 14), (12, 32), random.uniform(-4, 4), shift))
        y = torch.stack(inks)[:, None]
        blurred = avg_pool2d(pad(y, (1, 1, 1, 1)), 3, 1)
        light = torch.tensor(random.uniform(-0.4, 0.4, (count, 1, 1, 1))).float() * torch.linspace(-1, 1, 32)
        strength = torch.tensor(random.uniform(0.6, 1, (count, 1, 1, 1))).float()
        return (_noisy(random, strength * blurred + light, 0.06) - 0.2) / 0.3, y

    return Split(*scan(2000), *scan(300))


@lru_cache(maxsize=1)
def cells() -> Split:
    """Cells of some size and brightness among specks, 24x24 noisy pixels, and how many; 4800 and 600."""
    random = np.random.RandomState(135)
    row, column = np.mgrid[0:24, 0:24]

    def look(count: int) -> tuple[Tensor, Tensor]:
        numbers = random.randint(0, 21, count)
        images = np.zeros((count, 24, 24))
        for image, number in zip(images, numbers.tolist(), strict=True):
            for is_cell in [True] * number + [False] * random.randint(0, 15):
                (v, u), angle = random.uniform(2, 21, 2), random.uniform(0, np.pi)
                along = np.cos(angle) * (column - u) + np.sin(angle) * (row - v)
                across = np.cos(angle) * (row - v) - np.sin(angle) * (column - u)
                size = random.uniform(1.5, 2.3) if is_cell else 0.6
                distance = np.hypot(along / random.uniform(1, 1.4), across) / size
                image += random.uniform(0.4, 1.0) / (1 + np.exp(6 * (distance - 1)))
            image *= random.uniform(0.5, 1.5)
        x = _noisy(random, torch.tensor(images, dtype=torch.float32)[:, None], 0.2)
        return (x - 0.4) / 0.6, torch.tensor((numbers[:, None] - 10) / 6, dtype=torch.float32)

    return Split(*look(4800), *look(600))
