"""Images of the apart tasks: dials of clocks, scripts, places in photos, sums of digits, moved photos, terrains."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import datasets
from benchmarks.datasets import Split
from benchmarks.lr_tasks.blind.images_photos import photos


def _noisy(random: np.random.RandomState, x: Tensor, noise: float) -> Tensor:
    return x + noise * torch.from_numpy(random.standard_normal(x.shape)).float()


def _hand(middle: np.ndarray, angle: np.ndarray, length: float, width: float) -> np.ndarray:
    """Hands from a middle (count, 2) at an angle (count,) from the top, as images of 20x20 pixels."""
    row, column = np.mgrid[0:20, 0:20]
    right, down = column - middle[:, :1, None], row - middle[:, 1:, None]
    along = np.sin(angle)[:, None, None] * right - np.cos(angle)[:, None, None] * down
    nearest = np.clip(along, 0, length)
    distance = np.hypot(right - nearest * np.sin(angle)[:, None, None], down + nearest * np.cos(angle)[:, None, None])
    return np.clip(width - distance, 0, 1)


@lru_cache(maxsize=1)
def clocks() -> Split:
    """Noisy dials of clocks of 20x20 pixels, which hang a little askew, and the full hour; 4800 and 800."""
    random = np.random.RandomState(120)

    def show(count: int) -> tuple[Tensor, Tensor]:
        time, askew = 12 * random.random_sample(count), random.normal(0, 0.03, count)
        middle = random.uniform(8, 11, (count, 2))
        hours = _hand(middle, 2 * np.pi * time / 12 + askew, 4.5, 1.6)
        minutes = _hand(middle, 2 * np.pi * time + askew, 8, 1.1)
        x = torch.tensor(np.maximum(hours, minutes), dtype=torch.float32)[:, None]
        return (_noisy(random, x, 0.15) - 0.1) / 0.3, torch.tensor(np.floor(time), dtype=torch.long)

    return Split(*show(4800), *show(800))


#: The classes of `scripts`, as the first and last letter of each.
SCRIPTS = {
    "Latin": "az",
    "Greek": "αω",
    "Cyrillic": "ая",
    "Armenian": "աֆ",
    "Georgian": "აჰ",
    "Hebrew": "את",
    "Arabic": "فو",
    "Tifinagh": "ⴰⵥ",
    "Syllabics": "ᐁᑉ",
    "Braille": "⠁⠿",
}


@lru_cache(maxsize=1)
def scripts() -> Split:
    """In which of ten scripts a word of three letters is, three channels normalised like ImageNet; 720 and 600."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    random, folder = np.random.RandomState(121), Path(mpl.get_data_path()) / "fonts" / "ttf"
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def render(count: int) -> tuple[Tensor, Tensor]:
        pixels, labels = [], torch.arange(count) % len(SCRIPTS)
        for first, last in (tuple(SCRIPTS.values())[label] for label in labels.tolist()):
            word = "".join(chr(random.randint(ord(first), ord(last) + 1)) for _ in range(3))
            font = ImageFont.truetype(
                str(folder / random.choice(["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"])),
                random.randint(14, 20),
                layout_engine=ImageFont.Layout.BASIC,
            )
            image = Image.new("L", (40, 24), 0)
            ImageDraw.Draw(image).text((20, 12), word, font=font, fill=255, anchor="mm")
            shift = (random.randint(-3, 4), random.randint(-3, 4))
            turned = image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR, translate=shift)
            pixels.append(np.asarray(turned, dtype=np.float32) / 255.0)
        x = _noisy(random, torch.from_numpy(np.stack(pixels))[:, None], 0.1)
        return (1 - x - mean[:, None, None]) / std[:, None, None], labels

    return Split(*render(720), *render(600))


#: Photos, and regions of each: the classes of `places`.
PLACES = 3 * 4


@lru_cache(maxsize=1)
def places() -> Split:
    """Noisy pieces of photos, (3, 16, 16), and in which quarter of which photo they are; 3200 and 900.

    Those for testing are of the lowest third of each quarter.
    """
    random = np.random.RandomState(122)

    def cut(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        pieces, labels = [], random.randint(0, PLACES, count)
        for label in labels.tolist():
            photo, quarter = photos()[label // 4], label % 4
            height, width = photo.shape[1] // 2, photo.shape[2] // 2
            border = 2 * height // 3
            top = random.randint(border, height - 15) if is_test else random.randint(0, border - 15)
            top, left = top + height * (quarter // 2), random.randint(0, width - 15) + width * (quarter % 2)
            pieces.append(photo[:, top : top + 16, left : left + 16])
        return _noisy(random, torch.stack(pieces), 0.2), torch.from_numpy(labels)

    return Split(*cut(3200, False), *cut(900, True))


@lru_cache(maxsize=1)
def sums() -> Split:
    """Two noisy MNIST digits side by side, one row of 392 pixels, and their sum; 12800 and 1000."""
    source, random = datasets.mnist(), np.random.RandomState(123)

    def add(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        left, right = (torch.from_numpy(random.randint(0, len(x), count)) for _ in range(2))
        return _noisy(random, torch.cat([x[left], x[right]], 3), 0.3).flatten(1), y[left] + y[right]

    return Split(*add(*source[:2], 12800), *add(*source[2:], 1000))


@lru_cache(maxsize=1)
def moved_pieces() -> Split:
    """Two noisy pieces of a photo of 20x20 pixels, and by how much one is moved; 4800 and 600, of another part."""
    random = np.random.RandomState(124)
    grey = [photo.mean(0) for photo in photos()]

    def cut(count: int, is_test: bool) -> tuple[Tensor, Tensor]:
        pairs, moves = [], random.randint(-3, 4, (3 * count, 2))
        for down, right in moves:
            photo = grey[random.randint(3)]
            height, width = photo.shape
            border = 7 * width // 10
            left = random.randint(border + 3, width - 22) if is_test else random.randint(3, border - 22)
            top = random.randint(3, height - 22)
            second = photo[top + down : top + down + 20, left + right : left + right + 20]
            pairs.append(torch.stack([photo[top : top + 20, left : left + 20], second]))
        x = torch.stack(pairs)
        detail = x[:, 0].diff(dim=1).abs().mean((1, 2)).minimum(x[:, 0].diff(dim=2).abs().mean((1, 2)))
        chosen = detail.topk(count).indices.sort().values
        return _noisy(random, x[chosen], 0.1), torch.tensor(moves, dtype=torch.float32)[chosen] / 2

    return Split(*cut(4800, False), *cut(600, True))


@lru_cache(maxsize=1)
def terrains() -> Split:
    """Smooth terrains of 16x16 pixels in the light of a low sun, noisy, and their height; 4000 and 500."""
    random = np.random.RandomState(125)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    strength = np.where(frequency > 0, np.maximum(frequency, 1 / 32) ** -2.2, 0)

    def light(count: int) -> tuple[Tensor, Tensor]:
        noise = np.fft.fft2(random.standard_normal((count, 32, 32)))
        height = np.fft.ifft2(noise * strength).real[:, :16, :16]
        height = (height - height.mean((1, 2), keepdims=True)) / height.std()
        down, right = np.gradient(height, axis=(1, 2))
        shade = (1 + 1.5 * down + 1.5 * right) / np.sqrt(1 + (2 * down) ** 2 + (2 * right) ** 2)
        x = torch.tensor(np.maximum(shade, 0), dtype=torch.float32)[:, None]
        return (_noisy(random, x, 0.1) - 0.9) / 0.5, torch.tensor(height, dtype=torch.float32)[:, None]

    return Split(*light(4000), *light(500))
