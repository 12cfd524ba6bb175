"""Sequences of the reserved tasks: source code of the standard library, dates, and control charts."""

from __future__ import annotations

import calendar
import datetime as dt
import inspect
import io
import keyword
import tokenize
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import Split


def _sources() -> list[str]:
    """The text of some modules of the standard library; it differs a little between versions of Python."""
    import argparse
    import configparser
    import difflib
    import logging
    import pathlib
    import shutil
    import statistics
    import textwrap

    modules: tuple[ModuleType, ...] = (
        *(argparse, configparser, difflib, logging),
        *(shutil, statistics, textwrap, pathlib),
    )
    return [inspect.getsource(module) for module in modules]


#: What a character of source code is part of.
KINDS = ("space", "name", "keyword", "number", "operator", "string", "comment")
#: Length of a piece, and how many different characters there are.
PIECE, CHARACTERS = 24, 98


def _kinds_of(text: str) -> np.ndarray:
    """The number of the kind of each character."""
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    kinds = np.zeros(len(text), dtype=np.int64)
    by_token = {
        tokenize.NUMBER: "number",
        tokenize.OP: "operator",
        tokenize.STRING: "string",
        tokenize.COMMENT: "comment",
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = by_token.get(token.type, "space")
        if token.type == tokenize.NAME:
            kind = "keyword" if keyword.iskeyword(token.string) else "name"
        (row, column), (end_row, end_column) = token.start, token.end
        if kind != "space":
            kinds[starts[row - 1] + column : starts[end_row - 1] + end_column] = KINDS.index(kind)
    return kinds


@lru_cache(maxsize=1)
def tagged_source() -> Split:
    """Pieces of 24 characters of source code, and of which kind each character is; 6400 and 400."""
    random = np.random.RandomState(70)

    def pieces(texts: list[str], count: int) -> tuple[Tensor, Tensor]:
        codes = np.concatenate([[ord(c) for c in text] for text in texts])
        codes = np.where(codes == 10, 0, np.clip(codes - 31, 1, CHARACTERS - 1))
        kinds = np.concatenate([_kinds_of(text) for text in texts])
        windows = random.randint(0, len(codes) - PIECE, count)[:, None] + np.arange(PIECE)
        return torch.from_numpy(codes[windows]), torch.from_numpy(kinds[windows])

    texts = _sources()
    return Split(*pieces(texts[:-2], 6400), *pieces(texts[-2:], 400))


#: Characters of dates as they are written, and of the answer; a space stands for padding.
DATE_LETTERS = " 0123456789abcdefghijklmnopqrstuvwxyz,./-"
#: Length of the longest date, and of its answer.
DATE, ANSWER = 18, 8


@lru_cache(maxsize=1)
def dates() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Dates in many forms, and the same as year, month and day; 4096 and 400 pairs of rows of letters."""
    random = np.random.RandomState(72)

    def written() -> tuple[str, str]:
        day = dt.date(1950, 1, 1) + dt.timedelta(days=int(random.randint(0, 36000)))
        name = calendar.month_name[day.month].lower()
        year = f"{day.year}" if random.randint(2) else f"{day.year % 100:02d}"
        forms = (
            f"{day.day} {name} {day.year}",
            f"{name} {day.day}, {day.year}",
            f"{day.day}. {name[:3]} {year}",
            f"{name[:3]} {day.day}, {year}",
            f"{day.day}.{day.month}.{year}",
            f"{day.month:02d}/{day.day:02d}/{year}",
            f"{day.year}-{day.month}-{day.day}",
        )
        return forms[random.randint(len(forms))].ljust(DATE), f"{day.year}{day.month:02d}{day.day:02d}"

    def rows(count: int) -> tuple[Tensor, Tensor]:
        pairs = [written() for _ in range(count)]
        source, answer = (
            [[DATE_LETTERS.index(c) for c in text] for text in texts] for texts in zip(*pairs, strict=True)
        )
        return torch.tensor(source), torch.tensor(answer)

    return rows(4096), rows(400)


@lru_cache(maxsize=1)
def charts() -> Split:
    """Control charts of six kinds, 48 noisy values each: level, waves, two trends and two shifts; 2400 and 1000."""
    random = np.random.RandomState(73)
    count, time = 3400, np.arange(48)
    kind = random.randint(0, 6, count)

    def uniform(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, (count, 1))

    waves = uniform(0.8, 1.6) * np.sin(2 * np.pi * time / uniform(8, 14) + uniform(0, 6.3))
    trend, shift = uniform(0.02, 0.06) * (time - 24), uniform(0.8, 1.8) * (time >= uniform(16, 32))
    shapes = np.stack([np.zeros((count, 48)), waves, trend, -trend, shift, -shift])[kind, np.arange(count)]
    charts = shapes + uniform(-0.5, 0.5) + random.standard_normal((count, 48))
    x, y = torch.tensor(charts[:, None], dtype=torch.float32), torch.from_numpy(kind)
    return Split(x[:2400], y[:2400], x[2400:], y[2400:])
