"""Rows, sets and series of the tenth group: visits of a shop, jets of particles, meters of power, and an arm."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import Split

#: How many values each category of a visit has, its numbers, and what visitors do.
CATEGORIES, NUMBERS, ACTIONS = (60, 40, 24, 24, 12, 7, 5, 3), 4, 5


@lru_cache(maxsize=1)
def visits() -> Split:
    """Eight categories (as numbers) and four numbers of a visit, and which of five things follows; 20480 and 1000."""
    random, count = np.random.RandomState(110), 21480
    kinds, traits = [], []
    for size in CATEGORIES:
        share = 1 / (1 + np.arange(size))
        kinds.append(random.choice(size, count, p=share / share.sum()))
        traits.append(random.standard_normal((size, 4))[kinds[-1]])
    numbers = random.standard_normal((count, NUMBERS))
    fields = np.stack([*traits, numbers], 1)
    logits = fields.reshape(count, -1) @ random.standard_normal((fields[0].size, ACTIONS)) / 6
    for first, second in ((0, 3), (1, 2), (0, 8), (4, 6), (2, 8), (1, 5)):
        logits += (fields[:, first] * fields[:, second]) @ random.standard_normal((4, ACTIONS)) / 1.5
    labels = (1.5 * logits + random.gumbel(size=logits.shape)).argmax(1)
    x = torch.tensor(np.column_stack([*kinds, numbers]), dtype=torch.float32)
    y = torch.from_numpy(labels)
    return Split(x[:20480], y[:20480], x[20480:], y[20480:])


#: Particles of a jet that are kept, and kinds of jets.
PARTICLES, JETS = 16, 5


def _jet(random: np.random.RandomState, kind: int) -> np.ndarray:
    """Particles (logarithm of the momentum, two angles) from a light quark, a gluon, a W, a Z or a top quark."""
    mass = (0.0, 0.0, 0.8, 0.91, 1.73)[kind]
    momentum = random.uniform(4.5, 6)
    sides = [np.zeros(2)]
    shares = [1.0]
    if mass:
        z = random.uniform(0.2, 0.8)
        turn = random.uniform(0, 2 * np.pi)
        apart = mass * random.normal(1, 0.05) / momentum / np.sqrt(z * (1 - z)) * np.array([np.cos(turn), np.sin(turn)])
        sides, shares = [(1 - z) * apart, -z * apart], [z, 1 - z]
    if kind == 4:  # one side decays again
        z, turn = random.uniform(0.2, 0.8), random.uniform(0, 2 * np.pi)
        apart = 0.8 / (shares[0] * momentum) / np.sqrt(z * (1 - z)) * np.array([np.cos(turn), np.sin(turn)])
        sides = [sides[0] + (1 - z) * apart, sides[0] - z * apart, sides[1]]
        shares = [shares[0] * z, shares[0] * (1 - z), shares[1]]
    parts = []
    for side, share in zip(sides, shares, strict=True):
        count = 1 + random.poisson(14 if kind == 1 else 8 if kind == 0 else 5)
        fractions = random.dirichlet(np.full(count, 0.8 if kind == 1 else 0.5))
        width = (0.09 if kind == 1 else 0.05) / (0.3 + np.sqrt(fractions))[:, None]
        angles = side + width * random.standard_normal((count, 2))
        parts.append(np.column_stack([share * momentum * fractions, angles]))
    soft = np.column_stack([random.exponential(0.04, 4), random.uniform(-0.6, 0.6, (4, 2))])
    found = np.concatenate([*parts, soft])
    found = found[np.argsort(-found[:, 0])][:PARTICLES]
    found = found[found[:, 0] > 0.01]
    middle = (found[:, :1] * found[:, 1:]).sum(0) / found[:, 0].sum()
    jet = np.zeros((PARTICLES, 4))
    jet[: len(found)] = np.column_stack([np.log(found[:, 0]) / 2, 5 * (found[:, 1:] - middle), np.ones(len(found))])
    return jet


@lru_cache(maxsize=1)
def jets() -> Split:
    """Jets of up to 16 particles of four numbers, the last of which is 0 for padding, of five kinds; 6144 and 1000."""
    random = np.random.RandomState(111)
    kinds = random.randint(0, JETS, 7144)
    x, y = torch.tensor(np.stack([_jet(random, kind) for kind in kinds]), dtype=torch.float32), torch.from_numpy(kinds)
    return Split(x[:6144], y[:6144], x[6144:], y[6144:])


#: Hours that are known, and hours that are forecast.
PAST, FUTURE = 72, 12


@lru_cache(maxsize=1)
def loads() -> Split:
    """Three days of 60 meters of power, and the twelve hours after them; 10240 windows, and 800 that are later."""
    random, meters, hours = np.random.RandomState(112), 60, 24 * 7 * 20
    time = np.arange(hours)
    day, is_weekend = time % 24, (time // 24) % 7 >= 5

    def peak(centre: np.ndarray, width: np.ndarray) -> np.ndarray:
        away = np.abs(day - centre[:, None])
        return np.exp(-((np.minimum(away, 24 - away) / width[:, None]) ** 2))

    morning = peak(random.normal(8, 1.2, meters), random.uniform(1, 3, meters)) * random.uniform(0.3, 1.5, (meters, 1))
    evening = peak(random.normal(19, 1.5, meters), random.uniform(2, 4, meters)) * random.uniform(0.5, 2, (meters, 1))
    work = np.where(is_weekend, random.uniform(0.2, 1.3, (meters, 1)), 1.0)
    slow = np.zeros((meters, hours))
    weather = np.zeros(hours)
    for i in range(1, hours):
        slow[:, i] = 0.9 * slow[:, i - 1] + 0.1 * random.standard_normal(meters)
        weather[i] = 0.99 * weather[i - 1] + 0.05 * random.standard_normal()
    level = np.exp(random.uniform(-0.4, 0.4, (meters, 1)) * weather + slow)
    load = level * (0.4 + morning * work + evening) * np.exp(0.08 * random.standard_normal((meters, hours)))
    load = (load - load.mean(1, keepdims=True)) / load.std(1, keepdims=True)

    def windows(first: int, last: int, count: int) -> tuple[Tensor, Tensor]:
        start = random.randint(first, last - PAST - FUTURE, count)[:, None] + np.arange(PAST + FUTURE)
        found = torch.tensor(load[random.randint(0, meters, count)[:, None], start], dtype=torch.float32)
        return found[:, :PAST], found[:, PAST:]

    border = 24 * 7 * 16
    return Split(*windows(0, border, 10240), *windows(border, hours, 800))


@lru_cache(maxsize=1)
def arm() -> Split:
    """Angles, speeds and accelerations of an arm with three joints, and the noisy torques; 5120 and 1000."""
    random, count = np.random.RandomState(113), 6120
    angle, speed = random.uniform(-1.6, 1.6, (count, 3)), 1.5 * random.standard_normal((count, 3))
    acceleration = 3 * random.standard_normal((count, 3))
    lengths, masses = np.array([1.0, 0.8, 0.5]), np.array([1.5, 1.0, 0.7])
    turned, spin, spun = angle.cumsum(1), speed.cumsum(1), acceleration.cumsum(1)
    along = lengths[:, None] * np.stack([np.cos(turned), np.sin(turned)], 2)
    across = lengths[:, None] * np.stack([-np.sin(turned), np.cos(turned)], 2)
    pushed = (spun[..., None] * across - spin[..., None] ** 2 * along).cumsum(1) + np.array([0.0, 9.81])
    torque = 1.5 * np.tanh(4 * speed) + 0.4 * speed
    for end in range(3):
        for joint in range(end + 1):
            lever = across[:, joint : end + 1].sum(1)
            torque[:, joint] += masses[end] * (lever * pushed[:, end]).sum(1)
    torque = torque / torque[:5120].std(0)
    torque += 0.15 * random.standard_normal(torque.shape)
    x = torch.tensor(np.concatenate([angle, speed / 1.5, acceleration / 3], 1), dtype=torch.float32)
    y = torch.tensor(torque - torque[:5120].mean(0), dtype=torch.float32)
    return Split(x[:5120], y[:5120], x[5120:], y[5120:])
