"""A task of the ninth group with texts: from which library a docstring is, read in order."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.lr_tasks.blind.texts import DIM, LIBRARIES, words
from benchmarks.lr_tasks.held_out.common import accuracy_on, batches
from benchmarks.lr_tasks.sealed.common import adam, half_decades, one_cycle
from benchmarks.lr_tasks.shaping.module import Training
from benchmarks.lr_tasks.task import LRTask


class WordGRU(nn.Module):
    """Pretrained vectors of words as they are, a GRU, and the maximum of its states over the words."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(words()[0].clone(), freeze=True, padding_idx=0)
        self.gru = nn.GRU(DIM, hidden, batch_first=True, bidirectional=False)
        self.before, self.head = nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.3), nn.Linear(hidden, len(LIBRARIES)))

    def forward(self, numbers: Tensor) -> Tensor:
        states: Tensor = self.gru(self.before(self.embed(numbers)))[0]
        logits: Tensor = self.head(states.masked_fill(numbers[..., None] == 0, -1.0).amax(1))
        return logits


TASKS: tuple[LRTask, ...] = (
    LRTask(
        name="docstrings-word-gru-adam-onecycle-clipped",
        module=lambda lr: Training(WordGRU(), cross_entropy, lr, adam, one_cycle),
        loader=batches(lambda: words()[1][:2], 16),
        epochs=4,
        score=accuracy_on(lambda: words()[1][2:]),
        naive_lr=1e-3,
        default_lr=2e-3,
        exponents=half_decades(-4, -0.5),
        options={"gradient_clip_val": 1.0},
    ),
)
