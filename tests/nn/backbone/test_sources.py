"""Names of models; errors for unknown names, missing libraries and a missing network."""

from __future__ import annotations

import builtins
import importlib
import sys
import urllib.error

import pytest
import torch
from torchvision import models

from lightning_hp import Backbone
from tests.test_public_api import run_fresh


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache, for torchvision and for the hub."""
    requests = []

    def no_network(*args, **_):
        requests.append(args[0])
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    return requests


@pytest.fixture
def hub_offline(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    "source", ["resnet18", "ResNet18_Weights.IMAGENET1K_V1", models.ResNet18_Weights.IMAGENET1K_V1]
)
def test_torchvision_offline(source, offline):
    message = r"the weights ResNet18_Weights.IMAGENET1K_V1 on this machine or a network.*no route.*pretrained=False"
    with pytest.raises(ConnectionError, match=message) as caught:
        Backbone(source)
    assert isinstance(caught.value.__cause__, urllib.error.URLError)
    assert len(offline) == 1


def test_torchvision_from_the_cache(offline, tmp_path):
    """Weights in the cache of torch are loaded, and nothing is downloaded."""
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    model = models.squeezenet1_1()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(model.state_dict(), folder / weights.url.rpartition("/")[2])
    # torchvision checks the hash of a download, but not of a file in the cache.
    backbone = Backbone("squeezenet1_1")
    assert offline == []
    assert torch.equal(backbone.model.features[0].weight, model.features[0].weight)


@pytest.mark.parametrize("source", ["hf:prajjwal1/bert-tiny", "timm:resnet10t", "timm:hf-hub:timm/resnet10t.c3_in1k"])
def test_hubs_offline(source, hub_offline, offline):
    pytest.importorskip(source.partition(":")[0] if source.startswith("timm") else "transformers")
    with pytest.raises(
        ConnectionError, match=rf"Expected '{source}' on this machine or a network to download it from, but got"
    ):
        Backbone(source)


def test_a_hub_without_weights_needs_its_configuration(hub_offline):
    pytest.importorskip("transformers")
    with pytest.raises(ConnectionError, match="Expected 'hf:prajjwal1/bert-tiny'"):
        Backbone("hf:prajjwal1/bert-tiny", pretrained=False)


def test_a_folder_needs_no_hub(hub_offline, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=99
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "model")
    backbone = Backbone(f"hf:{tmp_path / 'model'}")
    ids = torch.randint(3, 99, (2, 7))
    assert backbone.training  # `from_pretrained` returns it in evaluation mode, in which dropout would stay off
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(ids), model(ids).last_hidden_state.mean(1))
    drawn = Backbone(f"hf:{tmp_path / 'model'}", pretrained=False)
    assert not torch.equal(drawn.model.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_missing_library(library, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return original(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: without(name) if name == library else real(name))
    source = {"timm": "timm:resnet10t", "transformers": "hf:bert"}[library]
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "lightning-hp\[{library}\]"'):
        Backbone(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet5", "a classification model of torchvision, such as .*resnet50.* but got 'resnet5'"),
        ("fasterrcnn_resnet50_fpn", "a classification model"),
        (
            "ResNet50_Weights.IMAGENET1K_V7",
            "weights of torchvision such as .* but got 'ResNet50_Weights.IMAGENET1K_V7'",
        ),
        (models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1, "weights of a classification model"),
        ("jax:resnet50", "'timm:<name>' or 'hf:<name>', but got 'jax:resnet50'"),
    ],
)
def test_unknown_names(source, message):
    with pytest.raises(ValueError, match=message):
        Backbone(source)


@pytest.mark.parametrize("source", ["timm:resnet10t.no_such_tag", "timm:hf-hub:", "hf:{empty}"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_names_that_a_library_refuses(source, pretrained, hub_offline, tmp_path):
    """A folder without a configuration is one of them."""
    pytest.importorskip("timm" if source.startswith("timm") else "transformers")
    with pytest.raises((ValueError, ConnectionError), match=r"^Expected .*, but"):
        Backbone(source.format(empty=tmp_path), pretrained=pretrained)


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("nn", {"torchvision", "timm", "transformers", "lightning", "pytorch_lightning"}),
        ("functional", {"torchvision", "timm", "transformers"}),
    ],
)
def test_what_importing_a_package_does_not_load(package, unwanted):
    assert run_fresh(f"import sys, lightning_hp.{package}; print({unwanted} & sys.modules.keys())") == "set()"
