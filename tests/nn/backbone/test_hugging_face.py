"""Tiny random models of many Hugging Face families, run with real weights and without the hub."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_hp import Backbone, ClassifierHead
from lightning_hp.nn.backbone.pooling import pool

transformers = pytest.importorskip("transformers")

_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99,
    "pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
}  # fmt: skip
_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip

TEXT = {
    "bert": _TEXT,
    "roberta": _TEXT,
    "electra": {**_TEXT, "embedding_size": 16},
    "mpnet": _TEXT,
    "albert": {**_TEXT, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99},
    "deberta-v2": _TEXT,
    "modernbert": _TEXT,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2},
    "llama": {**_TEXT, "num_key_value_heads": 2},
    "qwen2": {**_TEXT, "num_key_value_heads": 2},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "bart": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "vocab_size": 99,
    },
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 99},
}  # fmt: skip

IMAGES = {
    "vit": (_IMAGE, "cls", 32),
    "deit": (_IMAGE, "cls", 32),
    "beit": (_IMAGE, "pooler", 32),
    "dinov2": (_IMAGE, "pooler", 32),
    "clip_vision_model": (_IMAGE, "pooler", 32),
    "siglip_vision_model": (_IMAGE, "pooler", 32),
    "swin": ({"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "patch_size": 2}, "pooler", 32),
    "convnext": ({"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}, "pooler", 32),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, "pooler", 16),
    "regnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}, "pooler", 16),
    "mobilenet_v2": ({"depth_multiplier": 0.25, "image_size": 32}, "pooler", 1280),
    "poolformer": ({"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}, "mean", 32),
}

#: Weights that a family holds and does not use without further inputs.
UNUSED = {"xlnet": ("mask_emb", "r_s_bias", "seg_embed"), "dinov2": ("mask_token",)}


def build(family, options, auto="AutoModel"):
    config = transformers.AutoConfig.for_model(family, **options)
    return getattr(transformers, auto).from_config(config).eval()


def texts(padding="right"):
    """Three texts of 9, 5 and 1 tokens."""
    ids, mask = torch.randint(3, 99, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    for row, length in enumerate((9, 5, 1)):
        mask[row, slice(length, None) if padding == "right" else slice(0, 9 - length)] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def states_by_hand(model, batch):
    """The last hidden state of the whole model; of an encoder and a decoder, the encoder's."""
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return model(**batch).last_hidden_state


@pytest.mark.parametrize("pooling", ["auto", "mean", "max", "cls", "last"])
@pytest.mark.parametrize("family", TEXT)
def test_texts(family, pooling):
    model, batch = build(family, TEXT[family]), texts()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = Backbone(model, pooling=pooling)
    assert backbone.feature_dim == 32
    with torch.no_grad():
        features, states = backbone(batch), states_by_hand(model, batch)
        rows = [states[i, :length] for i, length in enumerate((9, 5, 1))]
        wanted = {
            "mean": lambda row: row.mean(0),
            "max": lambda row: row.amax(0),
            "cls": lambda row: row[0],
            "last": lambda row: row[-1],
        }["mean" if pooling == "auto" else pooling]
        torch.testing.assert_close(features, torch.stack([wanted(row) for row in rows]))
        torch.testing.assert_close(backbone(**batch), features)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_padding_does_not_change_the_features(family):
    """A text alone and the same text in a padded batch. Most families give its tokens the same positions in both."""
    backbone = Backbone(build(family, TEXT[family]))
    batch = texts()
    with torch.no_grad():
        together = backbone(batch)
        for row, length in enumerate((9, 5, 1)):
            alone = backbone(input_ids=batch["input_ids"][row : row + 1, :length])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert", "gpt2", "deberta-v2", "t5", "bart", "modernbert"])
def test_a_sequence_classifier_loses_its_head(family):
    model = build(family, TEXT[family], "AutoModelForSequenceClassification")
    paths = [name for name, _ in model.named_children()]
    backbone = Backbone(model)
    assert [name for name, _ in model.named_children()] == paths
    removed = " ".join(backbone.removed)
    assert "classif" in removed or "score" in removed
    assert not any("classif" in name or "score" in name or "decoder" in name for name, _ in backbone.named_parameters())
    batch = texts()
    with torch.no_grad():
        states = states_by_hand(model.base_model, batch)
        wanted = torch.stack([states[row, :length].mean(0) for row, length in enumerate((9, 5, 1))])
        torch.testing.assert_close(backbone(batch), wanted)


@pytest.mark.parametrize("family", IMAGES)
def test_images(family):
    options, pooling, width = IMAGES[family]
    model = build(family, options)
    backbone = Backbone(model)
    assert (backbone.pooling, backbone.feature_dim) == (pooling, width)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output, features = model(images), backbone(images)
        wanted = {
            "cls": lambda: output.last_hidden_state[:, 0],
            "pooler": lambda: output.pooler_output.reshape(2, -1),
            "mean": lambda: output.last_hidden_state.mean((2, 3)),
        }[pooling]()
    torch.testing.assert_close(features, wanted)
    torch.testing.assert_close(backbone(pixel_values=images), features)


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "resnet", "mobilenet_v2", "regnet"])
def test_the_old_head_on_the_features_is_the_old_image_classifier(family):
    model = build(family, IMAGES[family][0], "AutoModelForImageClassification")
    images = torch.randn(2, 3, 32, 32)
    backbone = Backbone(model)
    with torch.no_grad():
        torch.testing.assert_close(model.classifier(backbone(images)), model(images).logits)


#: Classes whose base model, as the library names it, is the classifier itself; the last one calls its logits
#: `last_hidden_state`.
HEADED = {
    "CLIPForImageClassification": ({"vision_config": _IMAGE, "text_config": _TEXT}, "classifier"),
    "SiglipForImageClassification": ({"vision_config": _IMAGE, "text_config": _TEXT}, "classifier"),
    "MetaClip2ForImageClassification": ({"vision_config": _IMAGE, "text_config": _TEXT}, "classifier"),
    "HGNetV2ForImageClassification": ({}, "fc"),
    "PPLCNetForImageClassification": ({}, "head"),
}


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("name", HEADED)
def test_a_head_that_the_base_model_keeps_is_found(name, copy):
    options, path = HEADED[name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**options, num_labels=7)).eval()
    head, images = model.get_submodule(path), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = pool(model(images), None, None)
        backbone = Backbone(model, copy=copy)
        assert [line.partition(":")[0] for line in backbone.removed] == [path]
        assert backbone.feature_dim == head.in_features
        torch.testing.assert_close(head(backbone(images)), logits)


def test_the_pooler_of_bert():
    model, batch = build("bert", _TEXT), texts()
    with torch.no_grad():
        torch.testing.assert_close(Backbone(model, pooling="pooler")(batch), model(**batch).pooler_output)
    with pytest.raises(ValueError, match="`pooler_output`, but it returns none"):
        Backbone(build("gpt2", TEXT["gpt2"]), pooling="pooler")


def test_hidden_size_is_not_always_the_width():
    """DINOv2's classifier reads two vectors, while the features here are one."""
    model = build("dinov2", _IMAGE, "AutoModelForImageClassification")
    assert model.classifier.in_features == 64
    assert Backbone(model).feature_dim == 32
    assert not hasattr(build("resnet", IMAGES["resnet"][0]).config, "hidden_size")


@pytest.mark.parametrize("family", [*TEXT, *IMAGES])
def test_every_weight_gets_a_gradient(family):
    """DDP fails on a weight without a gradient, so an unused pooler is removed."""
    options = TEXT.get(family) or IMAGES[family][0]
    backbone = Backbone(build(family, options)).train()
    batch = texts() if family in TEXT else {"pixel_values": torch.randn(2, 3, 32, 32)}
    (backbone(batch) * torch.arange(backbone.feature_dim)).sum().backward()
    missing = [name for name, value in backbone.named_parameters() if value.grad is None]
    assert [name for name in missing if not name.endswith(UNUSED.get(family, ()))] == []
    if family in ("bert", "vit"):
        assert any(line.startswith("pooler: ") for line in backbone.removed)


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "albert", "distilbert", "gpt2", "llama", "t5", "bart", "vit", "swin"]
)
def test_no_data_is_needed(family):
    """These models read the values of the mask that a tokenizer returns, so the run leaves it out."""
    options = TEXT.get(family) or IMAGES[family][0]
    with torch.device("meta"):
        model = build(family, options)
    batch = texts() if family in TEXT else {"pixel_values": torch.zeros(1, 3, 32, 32)}
    for example in (None, batch):
        assert Backbone(model, example_input=example).feature_dim == 32


def test_a_timm_model_inside():
    timm = pytest.importorskip("timm")
    config = transformers.TimmWrapperConfig(architecture="resnet10t", num_labels=3)
    model = transformers.TimmWrapperForImageClassification(config).eval()
    backbone = Backbone(model)
    assert backbone.feature_dim == timm.create_model("resnet10t").num_features
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.timm_model.fc(backbone(images)), model(images).logits)


@pytest.mark.parametrize("family", ["bert", "t5", "vit"])
def test_without_a_copy(family):
    options = TEXT.get(family) or IMAGES[family][0]
    model = build(family, options)
    backbone = Backbone(model, copy=False)
    own, all_of_model = {id(p) for p in backbone.parameters()}, {id(p) for p in model.parameters()}
    assert own <= all_of_model


def test_copies_pickles_and_modes():
    model, batch = build("bert", _TEXT), texts()
    backbone = Backbone(model)
    assert not any(part.training for part in backbone.modules())
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(batch), backbone(batch))


def test_an_explicit_head_is_removed():
    model, batch = build("bert", _TEXT, "AutoModelForSequenceClassification"), texts()
    backbone = Backbone(model, head="classifier")
    with torch.no_grad():
        torch.testing.assert_close(model.classifier(backbone(batch)), model(**batch).logits)


_SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "num_labels": 7,
}  # fmt: skip
SPEECH = {
    "wav2vec2": {},
    "wav2vec2-conformer": {},
    "hubert": {},
    "wavlm": {},
    "unispeech": {},
    "unispeech-sat": {},
    "data2vec-audio": {},
    "sew": {"squeeze_factor": 2},
}


def test_speech_without_a_mask():
    model = build("wav2vec2", _SPEECH)
    backbone = Backbone(model)
    sound = torch.randn(2, 8000)
    with torch.no_grad():
        torch.testing.assert_close(backbone(sound), model(sound).last_hidden_state.mean(1))


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own call
@pytest.mark.parametrize("case", SPEECH)
def test_speech_with_a_mask_of_samples(case):
    """The library's own classifier takes the mean of the projected frames; the mean and the projection commute."""
    model = build(case, {**_SPEECH, **SPEECH[case]}, "AutoModelForAudioClassification")
    backbone = Backbone(model)
    mask = (torch.arange(8000) < torch.tensor([8000, 4321, 900])[:, None]).long()
    batch = {"input_values": torch.randn(3, 8000) * mask, "attention_mask": mask}
    with torch.no_grad():
        torch.testing.assert_close(model.classifier(model.projector(backbone(batch))), model(**batch).logits)
        for pooling in ("max", "cls", "last"):
            assert Backbone(model, pooling=pooling)(batch).isfinite().all()


def test_the_mask_of_whisper():
    """Whisper makes one vector of two frames."""
    options = {
        "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_layers": 1,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "num_mel_bins": 8, "max_source_positions": 50,
        "vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip
    model = build("whisper", options).get_encoder()
    sound, mask = torch.randn(2, 8, 100), (torch.arange(100) < torch.tensor([100, 30])[:, None]).long()
    backbone = Backbone(model, example_input={"input_features": sound})
    with torch.no_grad():
        states = model(sound).last_hidden_state
        wanted = torch.stack([states[0].mean(0), states[1, :15].mean(0)])
        torch.testing.assert_close(backbone(input_features=sound, attention_mask=mask), wanted)


def test_of_two_models_in_one_a_part_is_passed():
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 99}, vision_config={**small, "image_size": 32, "patch_size": 8}
    )
    model = transformers.CLIPModel(config).eval()
    with pytest.raises(ValueError, match="Pass `example_input`"):
        Backbone(model)
    assert Backbone(model.vision_model).feature_dim == 16


def test_it_compiles_without_a_graph_break():
    backbone = Backbone(build("distilbert", TEXT["distilbert"]))
    classifier = nn.Sequential(backbone, ClassifierHead(backbone.feature_dim, 4)).eval()
    ids = torch.randint(3, 99, (2, 9))
    compiled = torch.compile(classifier, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids), classifier(ids))
