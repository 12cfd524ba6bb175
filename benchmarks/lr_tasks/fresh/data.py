"""Data of the fresh tasks, made from what is part of installed packages."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot, pad

from benchmarks import datasets
from benchmarks.datasets import Split

_TEST_FONTS = ("DejaVuSansMono", "DejaVuSerif-Bold", "STIXGeneralItalic", "cmr10")
_TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "cmb10", "cmtt10"),
)


@lru_cache(maxsize=1)
def capitals() -> Split:
    """Capital letters and figures (36 classes) in fonts of matplotlib, 12x12 noisy grey pixels; 1728 and 576."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    folder, random = Path(mpl.get_data_path()) / "fonts" / "ttf", np.random.RandomState(40)

    def render(fonts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        pixels, labels = [], []
        for name in fonts * 4:
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), random.randint(22, 28))
            for label, letter in enumerate(string.ascii_uppercase + string.digits):
                image = Image.new("L", (36, 36), 0)
                ImageDraw.Draw(image).text((18, 28), letter, font=font, fill=255, anchor="ms")
                shift = (random.randint(-3, 4), random.randint(-3, 4))
                turned = image.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR, translate=shift)
                pixels.append(np.asarray(turned, dtype=np.float32) / 255.0)
                labels.append(label)
        x = (avg_pool2d(torch.from_numpy(np.stack(pixels))[:, None], 3) - 0.2) / 0.3
        return x + 0.15 * torch.from_numpy(random.standard_normal(x.shape)).float(), torch.tensor(labels)

    return Split(*render(_TRAIN_FONTS), *render(_TEST_FONTS))


@lru_cache(maxsize=1)
def present_digits() -> Split:
    """Three digits side by side, and which of the ten occur; 3840 and 600 images of 8x24 noisy pixels."""
    split, random = datasets.digits(), np.random.RandomState(41)

    def rows(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(random.randint(0, len(x), (count, 3)))
        images = torch.cat([x[i] for i in index.T], 3)
        images = images + 0.4 * torch.from_numpy(random.standard_normal(images.shape)).float()
        return images, one_hot(y[index], 10).amax(1).float()

    return Split(*rows(*split[:2], 3840), *rows(*split[2:], 600))


@lru_cache(maxsize=1)
def few_mnist() -> Split:
    """160 MNIST images for training, and the 1000 for testing."""
    split = datasets.mnist()
    return split._replace(x_train=split.x_train[:160], y_train=split.y_train[:160])


@lru_cache(maxsize=1)
def wrong_labels() -> Split:
    """The digits with noisy pixels; 30 % of the training labels are drawn."""
    split, random = datasets.digits(), np.random.RandomState(42)
    x, x_test = (x + 0.4 * torch.from_numpy(random.standard_normal(x.shape)).float() for x in (split[0], split[2]))
    is_drawn = torch.from_numpy(random.random_sample(len(x)) < 0.3)
    y = torch.where(is_drawn, torch.from_numpy(random.randint(0, 10, len(x))), split.y_train)
    return Split(x, y, x_test, split.y_test)


@lru_cache(maxsize=1)
def digit_points() -> Split:
    """32 points of each digit, drawn where it is dark and moved a little; 1280 and 500 clouds, (N, 2, 32)."""
    split, random = datasets.digits(), np.random.RandomState(43)

    def points(x: Tensor) -> Tensor:
        ink = (x.flatten(1).double() + 1).numpy() ** 2
        chosen = np.stack([random.choice(64, 32, p=row / row.sum()) for row in ink])
        places = np.stack([chosen % 8, chosen // 8], 1) + random.uniform(-0.4, 0.4, (len(x), 2, 32))
        return torch.tensor((places - 3.5) / 2, dtype=torch.float32)

    return Split(points(split.x_train[:1280]), split.y_train[:1280], points(split.x_test), split.y_test)


@lru_cache(maxsize=1)
def mileage() -> Split:
    """The mileage of 392 cars from seven numbers, all standardised; 280 rows for training and 112 for testing."""
    from mlxtend.data import autompg_data

    x, y = autompg_data()
    table = torch.tensor(np.column_stack([x[:, :7], y]), dtype=torch.float32)  # the last column is a name
    table = table[torch.from_numpy(np.random.RandomState(44).permutation(len(table)))]
    table = (table - table[:280].mean(0)) / table[:280].std(0)
    return Split(table[:280, :-1], table[:280, -1:], table[280:, :-1], table[280:, -1:])


@lru_cache(maxsize=1)
def uneven_noise() -> Split:
    """A target whose mean and whose noise depend on six numbers; 1280 rows and 1000 for testing."""
    random = np.random.RandomState(45)
    x = random.uniform(-1, 1, (2280, 6))
    mean = 3 * np.sin(3 * x[:, 0] * x[:, 1]) + 2 * np.abs(x[:, 2]) + 2 * x[:, 3]
    noise = (0.2 + (x[:, 4] + 1) * (x[:, 0] > 0)) * random.standard_normal(2280)
    y = torch.tensor((mean + noise)[:, None], dtype=torch.float32)
    features = torch.tensor(x * np.sqrt(3), dtype=torch.float32)
    return Split(features[:1280], y[:1280], features[1280:], y[1280:])


@lru_cache(maxsize=1)
def digits_on_photos() -> Split:
    """Coloured MNIST digits in front of parts of two photos, normalised like ImageNet, 20x20 pixels; 600 and 300."""
    from sklearn.datasets import load_sample_images

    photos = [torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1) / 255 for photo in load_sample_images().images]
    source, random = datasets.mnist(), np.random.RandomState(46)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def compose(digits: Tensor, count: int) -> Tensor:
        images = []
        for digit in digits[:count]:
            photo = photos[random.randint(2)]
            top, left = (random.randint(size - 20) for size in photo.shape[1:])
            row, column = random.randint(2, 5, 2)
            ink = pad((digit * 0.28 + 0.13).clamp(0, 1), (column, 6 - column, row, 6 - row))
            colour = torch.tensor(random.uniform(0.6, 1, (3, 1, 1)), dtype=torch.float32)
            images.append((1 - ink) * 0.7 * photo[:, top : top + 20, left : left + 20] + ink * colour)
        return (torch.stack(images) - mean[:, None, None]) / std[:, None, None]

    x, x_test = compose(source.x_train, 600), compose(source.x_test, 300)
    return Split(x, source.y_train[:600], x_test, source.y_test[:300])
