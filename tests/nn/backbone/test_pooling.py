"""Pooling against loops over samples and tokens without padding."""

from __future__ import annotations

import pytest
import torch

from lightning_hp.nn.backbone.pooling import pool

MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    "holes": [[0, 1, 0, 1, 0], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0]],
}


def pool_by_loop(states, mask, pooling):
    rows = []
    for row, kept in zip(states, mask, strict=True):
        tokens = [token for token, keep in zip(row, kept.tolist(), strict=True) if keep]
        rows.append(
            {
                "mean": lambda tokens: sum(tokens) / len(tokens),
                "max": lambda tokens: torch.stack(
                    [torch.stack(numbers).max() for numbers in zip(*tokens, strict=True)]
                ),
                "cls": lambda tokens: tokens[0],
                "last": lambda tokens: tokens[-1],
            }[pooling](tokens)
        )
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last"])
@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
def test_masked_pooling_equals_the_loop(pooling, side, dtype):
    states, mask = torch.randn(3, 5, 4), torch.tensor(MASKS[side])
    torch.testing.assert_close(pool(states, pooling, mask.to(dtype)), pool_by_loop(states, mask, pooling))


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last"])
def test_without_a_mask_there_is_no_padding(pooling):
    states = torch.randn(3, 5, 4)
    torch.testing.assert_close(pool(states, pooling, None), pool_by_loop(states, torch.ones(3, 5), pooling))
    torch.testing.assert_close(pool(states, pooling, None), pool(states, pooling, torch.ones(3, 5)))


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -1e30])
def test_the_states_of_padding_have_no_effect(pooling, junk):
    mask = torch.tensor(MASKS["right"])
    clean, dirty = torch.randn(3, 5, 4), None
    dirty = torch.where(mask[..., None].bool(), clean, junk).requires_grad_()
    torch.testing.assert_close(pool(dirty, pooling, mask), pool_by_loop(clean, mask, pooling))
    pool(dirty, pooling, mask).sum().backward()
    assert dirty.grad.isfinite().all()
    assert (dirty.grad[mask == 0] == 0).all()


def test_a_long_text_does_not_overflow_half_precision():
    states = torch.full((1, 2048, 2), 100.0, dtype=torch.float16)  # their sum is three times the largest float16
    for mask in (None, torch.ones(1, 2048, dtype=torch.long)):
        torch.testing.assert_close(pool(states, "mean", mask).float(), torch.full((1, 2), 100.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_text_of_only_padding_is_zero(pooling):
    assert pool(torch.randn(1, 3, 2), pooling, torch.zeros(1, 3)).tolist() == [[0, 0]]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_maps_are_pooled_over_height_and_width(pooling):
    maps = torch.randn(2, 3, 4, 5)
    wanted = torch.tensor([[getattr(m, pooling)().item() for m in sample] for sample in maps])
    torch.testing.assert_close(pool(maps, pooling, None), wanted)
    torch.testing.assert_close(pool(maps.permute(0, 2, 3, 1), pooling, None, channels_last=True), wanted)


def test_a_pooler_that_keeps_empty_axes_is_flattened():
    assert pool({"pooler_output": torch.zeros(2, 3, 1, 1)}, "pooler", None).shape == (2, 3)


@pytest.mark.parametrize(
    ("output", "pooling", "mask", "message"),
    [
        (torch.zeros(2, 5, 4), "mean", torch.ones(2, 6), r"shape \(2, 5\), .* but got \(2, 6\)"),
        (torch.zeros(2, 5, 4), "mean", torch.ones(2, 1, 5, 5), r"but got \(2, 1, 5, 5\)"),
        ((torch.zeros(2, 4), torch.zeros(2, 4)), None, None, "one tensor, .* but got tuple. Wrap it"),
        ({"features": torch.zeros(2, 4)}, None, None, "but got dict with features"),
        ({"last_hidden_state": torch.zeros(2, 5, 4)}, "pooler", None, "returns none. Choose another `pooling`"),
        ({"last_hidden_state": torch.zeros(2, 5, 4), "pooler_output": None}, "pooler", None, "another `pooling`"),
    ],
)
def test_refuses(output, pooling, mask, message):
    with pytest.raises(ValueError, match=message):
        pool(output, pooling, mask)
