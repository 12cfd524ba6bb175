"""Tables, graphs and sets of points of the blind tasks."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import Split

_TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmb10", "cmtt10"),
)


def _statistics(image: np.ndarray) -> list[float]:
    """Sixteen numbers of an image of a letter: its box, the moments of its ink, and its edges."""
    rows, columns = (np.flatnonzero(image.max(axis) > 0.5) for axis in (1, 0))
    if not len(rows):
        return [0.0] * 16
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    share = box / box.sum()
    mean_x, mean_y = (share * x).sum(), (share * y).sum()
    u, v = x - mean_x, y - mean_y
    moments = [float((share * term).sum()) for term in (u * u, v * v, u * v, u * u * v, u * v * v, u**3, v**3)]
    edges = [np.abs(np.diff(box > 0.5, axis=axis)) for axis in (0, 1)]
    down, across = edges[0].sum() / width, edges[1].sum() / height
    where_down, where_across = (edges[0] * y[1:]).sum() / width, (edges[1] * x[:, 1:]).sum() / height
    return [width, height, float(box.mean()), mean_x, mean_y, *moments, down, across, where_down, where_across]


@lru_cache(maxsize=1)
def letter_statistics() -> Split:
    """Capital letters in distorted fonts of matplotlib, each as sixteen rounded numbers; 4992 rows and 1664."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    folder, random = Path(mpl.get_data_path()) / "fonts" / "ttf", np.random.RandomState(90)
    rows, labels = [], []
    for name in _TRAIN_FONTS * 16:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), random.randint(20, 30))
        for label, letter in enumerate(string.ascii_uppercase):
            image = Image.new("L", (44, 44), 0)
            ImageDraw.Draw(image).text((22, 32), letter, font=font, fill=255, anchor="ms")
            (a, b), (c, d) = np.eye(2) + random.uniform(-0.25, 0.25, (2, 2))
            form = (a, b, 22 - 22 * (a + b), c, d, 22 - 22 * (c + d))
            warped = image.transform((44, 44), Image.Transform.AFFINE, form, Image.Resampling.BILINEAR)
            rows.append(_statistics(np.asarray(warped, dtype=np.float64) / 255.0))
            labels.append(label)
    table, y = np.array(rows), torch.tensor(labels)
    order, low, high = random.permutation(len(table)), *np.quantile(table, [0.01, 0.99], axis=0)
    levels = np.clip(np.round(15 * (table - low) / (high - low)), 0, 15)[order]
    x = torch.tensor((levels - levels[:4992].mean(0)) / levels[:4992].std(0), dtype=torch.float32)
    y = y[torch.from_numpy(order)]
    return Split(x[:4992], y[:4992], x[4992:], y[4992:])


@lru_cache(maxsize=1)
def elevations() -> Split:
    """The height of a landscape at a place, all standardised: 12800 places of a grid, and 2000 others."""
    from matplotlib.cbook import get_sample_data

    height = torch.tensor(get_sample_data("jacksboro_fault_dem.npz")["elevation"].astype(np.float32))
    rows, columns = height.shape
    chosen = torch.from_numpy(np.random.RandomState(91).permutation(rows * columns)[:14800])
    places = torch.stack([chosen % columns / (columns - 1), chosen // columns / (rows - 1)], 1) * 2 - 1
    y = height.flatten()[chosen, None]
    y = (y - y[:12800].mean()) / y[:12800].std()
    return Split(places[:12800], y[:12800], places[12800:], y[12800:])


#: Nodes of the largest graph, and the kinds of graphs.
NODES, FAMILIES = 24, 8


@lru_cache(maxsize=1)
def graph_families() -> Split:
    """Adjacency matrices (padded) of random graphs of eight kinds with some edges moved; 3840 and 800."""
    import networkx as nx

    random = np.random.RandomState(92)

    def draw(kind: int) -> np.ndarray:
        n, seed = int(random.randint(18, NODES + 1)), int(random.randint(2**31))
        half = n // 2
        graph = (
            lambda: nx.gnm_random_graph(n, 2 * n, seed=seed),
            lambda: nx.barabasi_albert_graph(n, 2, seed=seed),
            lambda: nx.watts_strogatz_graph(n, 4, 0.2, seed=seed),
            lambda: nx.random_regular_graph(4, n, seed=seed),
            lambda: nx.powerlaw_cluster_graph(n, 2, 0.9, seed=seed),
            lambda: nx.random_geometric_graph(n, (4.6 / (np.pi * n)) ** 0.5 * 1.15, seed=seed),
            lambda: nx.stochastic_block_model([half, n - half], [[7 / n, 1 / n], [1 / n, 7 / n]], seed=seed),
            lambda: nx.bipartite.gnmk_random_graph(half, n - half, 2 * n, seed=seed),
        )[kind]()
        order = random.permutation(n)
        matrix = nx.to_numpy_array(graph)[np.ix_(order, order)]
        edges = np.argwhere(np.triu(matrix, 1))
        for a, b in edges[random.random_sample(len(edges)) < 0.08]:
            c = random.randint(n)
            matrix[a, b] = matrix[b, a] = 0
            matrix[a, c] = matrix[c, a] = float(a != c)
        return np.pad(matrix, (0, NODES - n))

    kinds = random.randint(0, FAMILIES, 4640)
    x, y = torch.tensor(np.stack([draw(kind) for kind in kinds]), dtype=torch.float32), torch.from_numpy(kinds)
    return Split(x[:3840], y[:3840], x[3840:], y[3840:])


#: Points of a solid, and the kinds of solids.
POINTS, SOLIDS = 32, 10


def _solid(random: np.random.RandomState, kind: int) -> np.ndarray:
    """Points on the surface of a solid."""
    angle, height, other = (random.uniform(0, 2 * np.pi, POINTS), *random.uniform(-1, 1, (2, POINTS)))
    normal = random.standard_normal((POINTS, 3))
    sphere = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    side, edge = random.randint(3, size=POINTS), random.choice([-1.0, 1.0], (POINTS, 3))
    is_axis = np.eye(3)[side] > 0
    cube = np.where(is_axis, edge, random.uniform(-1, 1, (POINTS, 3)))
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    up = np.array([0.0, 0.0, 1.0])
    tube = random.uniform(0, 2 * np.pi, POINTS)[:, None]
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    faces = np.stack([np.delete(corners, random.randint(4), 0) for _ in range(POINTS)])
    radius = np.sqrt((1 + height) / 2)[:, None]
    solids = (
        lambda: sphere,
        lambda: sphere * [1.3, 0.9, 0.6],
        lambda: 0.8 * cube,
        lambda: cube * [1.1, 0.7, 0.5],
        lambda: 0.8 * circle + 0.8 * height[:, None] * up,
        lambda: circle * radius + (0.6 - 1.6 * radius) * up,
        lambda: circle * (0.9 + 0.35 * np.cos(tube)) + 0.35 * np.sin(tube) * up,
        lambda: (random.dirichlet(np.ones(3), POINTS)[:, :, None] * faces).sum(1),
        lambda: np.stack([0.7 * np.cos(4 * height), 0.7 * np.sin(4 * height), height], 1),
        lambda: np.stack([height, other, 0 * height], 1),
    )
    return np.asarray(solids[kind]())


@lru_cache(maxsize=1)
def solids() -> Split:
    """Noisy points of ten kinds of upright solids, turned and stretched, with stray points; 3840 and 800 (N, 32, 3)."""
    random = np.random.RandomState(93)

    def draw(kind: int) -> np.ndarray:
        points = _solid(random, kind) * random.uniform(0.8, 1.25, 3)
        (x, y), angle = random.normal(0, 0.1, 2), random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), np.sin(angle), x], [-np.sin(angle), np.cos(angle), y], [-x, -y, 1]])
        is_stray = random.random_sample((POINTS, 1)) < 0.1
        points = np.where(is_stray, random.uniform(-1, 1, points.shape), points)
        return (points + 0.06 * random.standard_normal(points.shape)) @ turn

    kinds = random.randint(0, SOLIDS, 4640)
    x, y = torch.tensor(np.stack([draw(kind) for kind in kinds]), dtype=torch.float32), torch.from_numpy(kinds)
    return Split(x[:3840], y[:3840], x[3840:], y[3840:])


class Clusters(NamedTuple):
    """Small clusters: the kind of each atom, its place, and the energy of the cluster (standardised)."""

    kinds: Tensor
    places: Tensor
    energy: Tensor


#: Atoms of a cluster, and the kinds of atoms.
ATOMS, ELEMENTS = 7, 3


@lru_cache(maxsize=1)
def clusters() -> tuple[Clusters, Clusters]:
    """Clusters with the energy of pairs and of angles; 3200 for training and 600 for testing."""
    random, count = np.random.RandomState(94), 3800
    kinds = random.randint(0, ELEMENTS, (count, ATOMS))
    places = 1.3 * random.standard_normal((count, ATOMS, 3))
    for _ in range(60):  # atoms that are too near push each other away
        step = places[:, :, None] - places[:, None]
        distance = np.linalg.norm(step, axis=3, keepdims=True) + 1e-9
        places = places + 0.2 * (step / distance * np.clip(1.2 - distance, 0, None)).sum(2)
    step = places[:, :, None] - places[:, None]
    distance = np.linalg.norm(step, axis=3) + 10 * np.eye(ATOMS)
    depth = np.array([[1.0, 1.6, 0.5], [1.6, 0.6, 1.2], [0.5, 1.2, 1.4]])[kinds[:, :, None], kinds[:, None]]
    reach = np.array([[1.2, 1.5, 1.4], [1.5, 1.7, 1.3], [1.4, 1.3, 1.6]])[kinds[:, :, None], kinds[:, None]]
    pairs = depth * ((1 - np.exp(-1.6 * (distance - reach))) ** 2 - 1)
    bond = np.exp(-((distance / 1.8) ** 2))
    direction = step / distance[..., None]
    angles = ((direction @ direction.transpose(0, 1, 3, 2)) + 0.3) ** 2 * bond[:, :, :, None] * bond[:, :, None]
    bent = np.where(np.eye(ATOMS, dtype=bool), 0, angles).sum((2, 3)) * np.array([0.4, 1.0, 0.7])[kinds]
    energy = np.clip(pairs, None, 3).sum((1, 2)) / 2 + bent.sum(1)
    energy = (energy - energy[:3200].mean()) / energy[:3200].std()
    columns = (torch.from_numpy(kinds), *(torch.tensor(v, dtype=torch.float32) for v in (places, energy)))
    return Clusters(*(column[:3200] for column in columns)), Clusters(*(column[3200:] for column in columns))
