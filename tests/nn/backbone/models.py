"""Small classifiers and feature extractors of many forms, with the paths of their heads."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


class Cnn(nn.Module):
    """A convolutional network; the width of its features depends on the size of the image."""

    def __init__(self, channels=1, side=28):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.flat = nn.Flatten()
        self.anything = nn.Linear(4 * (side // 2) ** 2, 10)

    def forward(self, x):
        return self.anything(self.flat(self.stem(x)))


class TwoHeads(nn.Module):
    """Averages the logits of two heads, as distilled transformers do."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.one, self.two = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.tanh(self.trunk(x))
        return (self.one(x) + self.two(x)) / 2


class LastToken(nn.Module):
    """Reads a sequence and classifies the state at its end."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 6)
        self.rnn = nn.LSTM(6, 7, batch_first=True)
        self.decide = nn.Linear(7, 3)

    def forward(self, ids):
        return self.decide(self.rnn(self.embedding(ids))[0][:, -1])


class Residual(nn.Module):
    """A sum of residuals without a norm at the end: every addend is linear and as wide as the output."""

    def __init__(self, head=False):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2))
        self.top = nn.Linear(8, 4) if head else nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.top(x)


class Then(nn.Module):
    """A network, and a function of its output."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x):
        return self.function(self.net(x))


class Attention(nn.Module):
    """Ends in attention, whose inner layer is never called as a module."""

    def __init__(self, head=True):
        super().__init__()
        self.inside = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.logits = nn.Linear(8, 4) if head else nn.Identity()

    def forward(self, x):
        if x.ndim != 3:
            raise ValueError("tokens are needed")
        x = self.inside(x)
        return self.logits(self.attention(x, x, x)[0].mean(1))


class Functional(nn.Module):
    """Its last layer is a weight of its own, as in CLIP or a cosine classifier."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8))
        self.weight = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        return nn.functional.linear(self.trunk(x), self.weight)


class Scaled(nn.Module):
    """Divides its logits by a learned temperature."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.fc(x) / self.temperature


class OwnLayer(nn.Module):
    """A last layer of an unknown class."""

    def __init__(self, inputs=6, outputs=5):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x):
        return nn.functional.normalize(x, dim=-1) @ self.weight.T


def mlp(*extra, head=nn.Linear):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), head(8, 5), *extra)


def mlp1():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))


class Views(nn.Module):
    """Averages the logits of two views of a sample: one head, called twice."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return torch.stack([self.net(x), self.net(x.flip(-1))]).mean(0)


class TwoTasks(nn.Module):
    """The logits of two tasks side by side."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.one, self.two = nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        x = self.trunk(x)
        return torch.cat([self.one(x), self.two(x)], 1)


def named(name):
    return nn.Sequential(OrderedDict([("trunk", nn.Sequential(nn.Linear(6, 8), nn.ReLU())), (name, nn.Linear(8, 5))]))


def nin(*extra):
    """Only convolutions, the last one 1x1, and an average over the image."""
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1)]
    return nn.Sequential(*body, *extra, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class WithNumClasses(nn.Module):
    """Ends as SqueezeNet: an activation after the logits, and the number of classes as an attribute."""

    def __init__(self):
        super().__init__()
        self.num_classes = 6
        self.net = nin(nn.ReLU())

    def forward(self, x):
        return self.net(x)


#: Name: the model, the paths of its head, the width of its features.
WITH_HEAD = {
    "cnn": (Cnn, ("anything",), 4 * 14 * 14),
    "cnn of small images": (lambda: Cnn(3, 32), ("anything",), 4 * 16 * 16),
    "mlp": (mlp, ("2",), 8),
    "mlp as wide as its features": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), ("2",), 8),
    "log-softmax": (lambda: mlp(nn.LogSoftmax(1)), ("2", "3"), 8),
    "sigmoid": (lambda: mlp(nn.Dropout(), nn.Sigmoid()), ("2", "4"), 8),
    "one logit without an axis": (lambda: Then(mlp1(), lambda x: x.squeeze(-1)), ("net.2",), 8),
    "named classifier": (lambda: named("classifier"), ("classifier",), 8),
    "two heads": (TwoHeads, ("one", "two"), 8),
    "last token": (LastToken, ("decide",), 7),
    "residual": (lambda: Residual(head=True), ("top",), 8),
    "attention": (Attention, ("logits",), 8),
    "one by one": (nin, ("2",), 4),
    "one by one, then relu, with a number of classes": (WithNumClasses, ("net.2",), 4),
    "logits of two views": (Views, ("net.2",), 8),
}

#: Models that return features already, and the width of these.
WITHOUT_HEAD = {
    "norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)), 8),
    "batch norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()), 8),
    "hidden layer": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()), 8),
    "hidden layer, gelu, dropout": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout()), 8),
    "hidden layer, tanh": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh()), 8),
    "residuals": (Residual, 8),
    "attention": (lambda: Attention(head=False), 8),
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()), 4),
    "a map": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 4),
}

#: Models whose last layer may be a head or not, and part of the error.
IN_DOUBT = {
    "projection": (lambda: named("projection"), "`projection`, whose name suggests features"),
    "embedding": (lambda: named("embed"), "suggests features"),
    "features": (lambda: nn.Sequential(OrderedDict(features=mlp())), "suggests features"),
    "on a sphere": (lambda: Then(mlp(), nn.functional.normalize), "LinalgVectorNorm, which logits do not go through"),
    "a weight of its own": (Functional, "weights that belong to no layer"),
    "a temperature": (Scaled, "a weight of its own"),
    "a layer of its own": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), OwnLayer(8)), r"\(OwnLayer\)"),
    "one by one, then relu": (lambda: nin(nn.ReLU()), "an activation"),
    "one layer": (lambda: nn.Linear(6, 5), "one single layer"),
    "a softmax in forward": (lambda: Then(mlp(), lambda x: x.log_softmax(1)), "probabilities of them in its own code"),
    "two tasks": (TwoTasks, "not as wide as its output"),
    "segmentation": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), "a map of 4 axes"),
    "a tuple": (lambda: Then(mlp(), lambda x: (x, x)), "returns tuple"),
    "detached": (lambda: Then(mlp(), torch.Tensor.detach), "cannot be followed back"),
}
