"""Images and tables of the reserved tasks, made from what is part of installed packages."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks import datasets
from benchmarks.datasets import Split

_TEST_FONTS = ("DejaVuSansMono", "DejaVuSerif-Italic", "STIXGeneralBol")
_TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralItalic"),
)
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
CYRILLIC = "абвгдежзиклмнопрстуфхцчшщъыьэюя"


def _render(alphabet: str, fonts: tuple[str, ...], variants: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Letters as white ink in images (N, 1, 32, 32), turned, moved and noisy, and their numbers in the alphabet."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    folder, random = Path(mpl.get_data_path()) / "fonts" / "ttf", np.random.RandomState(seed)
    pixels, labels = [], []
    for name in fonts * variants:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), random.randint(18, 27))
        for label, letter in enumerate(alphabet):
            image = Image.new("L", (32, 32), 0)
            ImageDraw.Draw(image).text((16, 22), letter, font=font, fill=255, anchor="ms")
            shift = (random.randint(-3, 4), random.randint(-3, 4))
            turned = image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR, translate=shift)
            pixels.append(np.asarray(turned, dtype=np.float32) / 255.0)
            labels.append(label)
    x = np.stack(pixels)[:, None]
    return torch.from_numpy(x + noise * random.standard_normal(x.shape)).float(), torch.tensor(labels)


@lru_cache(maxsize=1)
def greek_letters() -> Split:
    """24 Greek letters in fonts of matplotlib, three equal channels normalised like ImageNet; 864 and 288."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = _render(GREEK, _TRAIN_FONTS, 4, noise=0.15, seed=60)
    x_test, y_test = _render(GREEK, _TEST_FONTS, 4, noise=0.15, seed=61)
    x, x_test = ((x - mean[:, None, None]) / std[:, None, None] for x in (x, x_test))
    return Split(x, y, x_test, y_test)


@lru_cache(maxsize=1)
def cyrillic_letters() -> Split:
    """31 Cyrillic letters in fonts of matplotlib, grey images of 16x16 pixels; 2232 and 558."""
    x, y = _render(CYRILLIC, _TRAIN_FONTS, 8, noise=0.2, seed=62)
    x_test, y_test = _render(CYRILLIC, _TEST_FONTS, 6, noise=0.2, seed=63)
    x, x_test = ((avg_pool2d(x, 2) - 0.15) / 0.35 for x in (x, x_test))
    return Split(x, y, x_test, y_test)


#: Images in a bag.
BAG = 8


@lru_cache(maxsize=1)
def bags() -> Split:
    """Bags of eight noisy digits, and whether a 7 is among them, which is so for half of the bags; 2400 and 600."""
    split, random = datasets.digits(), np.random.RandomState(64)

    def fill(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        sevens, others = (np.flatnonzero((y == 7).numpy() == is_seven) for is_seven in (True, False))
        index, is_positive = random.choice(others, (count, BAG)), random.random_sample(count) < 0.5
        index[:, 0] = np.where(is_positive, random.choice(sevens, count), index[:, 0])
        images = x[torch.from_numpy(index)]
        noisy = images + 0.5 * torch.from_numpy(random.standard_normal(images.shape)).float()
        return noisy, torch.from_numpy(is_positive).float()

    return Split(*fill(*split[:2], 2400), *fill(*split[2:], 600))


def _standardised(x: np.ndarray, n_train: int) -> Tensor:
    features = torch.tensor(x, dtype=torch.float32)
    return (features - features[:n_train].mean(0)) / features[:n_train].std(0)


#: Levels of a rating.
LEVELS = 6


@lru_cache(maxsize=1)
def ratings() -> Split:
    """One of six ordered levels, the middle ones frequent, that depends on eleven numbers; 800 rows and 1000."""
    random = np.random.RandomState(65)
    x = random.standard_normal((1800, 11))
    quality = np.tanh(x[:, 0] * x[:, 1]) + 0.8 * x[:, 2] - 0.5 * x[:, 3] ** 2 + np.sin(2 * x[:, 4]) + 0.6 * x[:, 5]
    quality += 0.5 * random.standard_normal(1800)
    borders = np.quantile(quality, [0.05, 0.25, 0.55, 0.8, 0.95])
    features, levels = _standardised(x, 800), torch.from_numpy(np.searchsorted(borders, quality))
    return Split(features[:800], levels[:800], features[800:], levels[800:])


#: Who rates, and what is rated.
USERS, ITEMS = 200, 120


@lru_cache(maxsize=1)
def stars() -> Split:
    """Users and items (as numbers), and one to five stars; 9600 ratings and 1000 for testing."""
    random = np.random.RandomState(66)
    taste, trait = random.standard_normal((USERS, 4)), random.standard_normal((ITEMS, 4))
    mood, fame = 0.5 * random.standard_normal(USERS), 0.5 * random.standard_normal(ITEMS)
    chosen = random.choice(USERS * ITEMS, 10600, replace=False)
    users, items = chosen // ITEMS, chosen % ITEMS
    liking = 3.4 + mood[users] + fame[items] + 0.5 * (taste[users] * trait[items]).sum(1)
    y = np.clip(np.round(liking + 0.4 * random.standard_normal(10600)), 1, 5)
    pairs, target = torch.from_numpy(np.stack([users, items], 1)), torch.tensor(y[:, None], dtype=torch.float32)
    return Split(pairs[:9600], target[:9600], pairs[9600:], target[9600:])


@lru_cache(maxsize=1)
def fifty_classes() -> Split:
    """50 classes of two clusters each in 40 features, a twentieth of the labels wrong; 6400 rows and 1000."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        7400, 40, n_informative=16, n_classes=50, n_clusters_per_class=2, class_sep=2.5, flip_y=0.05, random_state=67
    )
    features, labels = _standardised(x, 6400), torch.tensor(y, dtype=torch.long)
    return Split(features[:6400], labels[:6400], features[6400:], labels[6400:])


@lru_cache(maxsize=1)
def rare_cases() -> Split:
    """Two classes of several clusters, 4 % of the rows are of the second; 8960 rows and 3000."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        11960,
        24,
        n_informative=10,
        n_clusters_per_class=6,
        weights=[0.965],
        class_sep=1.4,
        flip_y=0.005,
        random_state=68,
    )
    features, labels = _standardised(x, 8960), torch.tensor(y, dtype=torch.float32)[:, None]
    return Split(features[:8960], labels[:8960], features[8960:], labels[8960:])


@lru_cache(maxsize=1)
def arms() -> Split:
    """The place that an arm of two joints reaches, and its two angles, of which two pairs fit; 3200 and 1000."""
    random = np.random.RandomState(69)
    shoulder, elbow = random.uniform(0, np.pi / 2, 4200), random.uniform(-2.5, 2.5, 4200)
    place = np.stack([f(shoulder) + 0.7 * f(shoulder + elbow) for f in (np.cos, np.sin)], 1)
    place += 0.02 * random.standard_normal(place.shape)
    x, y = _standardised(place, 3200), _standardised(np.stack([shoulder, elbow], 1), 3200)
    return Split(x[:3200], y[:3200], x[3200:], y[3200:])
