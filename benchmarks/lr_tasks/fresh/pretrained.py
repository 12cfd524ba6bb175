"""Fresh tasks that fine-tune: a few layers of an ImageNet network, and the biases of a text encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from benchmarks.lr_tasks.fresh import data
from benchmarks.lr_tasks.held_out.common import NetModule, accuracy_on, batches, each_step
from benchmarks.lr_tasks.sealed.common import half_decades
from benchmarks.lr_tasks.sealed.sequences import TRAINING, EncoderTop, last_layer, topic_accuracy
from benchmarks.lr_tasks.shaping import glyphs as shaping_glyphs
from benchmarks.lr_tasks.shaping.module import cosine, warmup_linear
from benchmarks.lr_tasks.task import LRTask


def small_trunk() -> nn.Sequential:
    """Stem and first three blocks of EfficientNet-Lite0 with ImageNet weights, and a new head for ten digits."""
    trunk: Any = next(shaping_glyphs.first_blocks().children())
    return nn.Sequential(*trunk[:6], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


class LayerRatios(NetModule):
    """AdamW whose rate falls by a factor from each layer to the one below it."""

    ratio = 0.6

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.net(x), labels)

    def configure_optimizers(self) -> Any:
        layers = [list(layer.parameters()) for layer in reversed(list(self.net.children()))]
        used = [parameters for parameters in layers if parameters]
        groups = [{"params": used[i], "lr": self.lr * self.ratio**i} for i in range(len(used))]
        optimizer = AdamW(groups, lr=self.lr, weight_decay=0.01)
        return each_step(optimizer, cosine(optimizer, self.total_steps))


class BiasEncoder(EncoderTop):
    """Trains the biases of the layer and the head."""

    def __init__(self) -> None:
        super().__init__()
        for name, parameter in self.layer.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


class BiasTuning(NetModule):
    """Trains what is not frozen, with AdamW, warm-up and linear decay."""

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        states, mask, labels = batch
        return cross_entropy(self.net(states, mask), labels)

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, lr=self.lr, weight_decay=0.01)
        return each_step(optimizer, warmup_linear(optimizer, self.total_steps))


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="photo-digits-lite0-layer-ratios-adamw",
        module=lambda lr: LayerRatios(small_trunk(), lr),
        loader=batches(lambda: data.digits_on_photos()[:2], 12),
        epochs=3,
        score=accuracy_on(lambda: data.digits_on_photos()[2:]),
        naive_lr=1e-3,
        default_lr=5e-4,
        exponents=half_decades(-4, 0),
    ),
    LRTask(
        name="biases-encoder-adamw-warmup",
        module=lambda lr: BiasTuning(BiasEncoder(), lr),
        loader=batches(lambda: tuple(tensor[:TRAINING] for tensor in last_layer()[1:]), 4),
        epochs=1,
        score=topic_accuracy,
        naive_lr=1e-3,
        default_lr=1e-3,
        exponents=half_decades(-4.5, -0.5),
    ),
)
