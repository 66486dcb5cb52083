"""What a convolution's kernel sees, against torch's own unfolding and the product itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from atp_core.engine.taps import WeightTap
from atp_core.errors import ModelError
from atp_core.records import PrunableWeight


def seen(layer: Any, weights: list[PrunableWeight], x: torch.Tensor) -> dict[str, torch.Tensor]:
    rows: dict[str, torch.Tensor] = {}
    with (
        torch.inference_mode(),
        WeightTap(weights, lambda w, r, key: rows.__setitem__(w.name, r.clone())),
    ):
        layer(x)
    return rows


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": 3, "padding": "valid", "bias": False},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_rows_times_the_flat_kernel_are_the_convolution(settings: dict[str, Any]) -> None:
    layer = nn.Conv2d(4, 6, **settings)
    weight = PrunableWeight("w", layer)
    x = torch.randn(2, 4, 9, 8)
    rows = seen(layer, [weight], x)["w"]
    flat = rows @ weight.matrix().T
    if layer.bias is not None:
        flat = flat + layer.bias.detach()
    expected = layer(x).detach().permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(flat, expected, rtol=1e-4, atol=1e-5)


def test_rows_equal_torchs_unfold() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2)
    x = torch.randn(2, 3, 11, 10)
    unfold = nn.functional.unfold(x, 3, dilation=2, padding=1, stride=2)
    rows = seen(layer, [PrunableWeight("w", layer)], x)["w"]
    assert torch.equal(rows, unfold.transpose(1, 2).reshape(-1, 27))


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.Conv1d, (2, 4, 10)), (nn.Conv3d, (2, 4, 5, 6, 7))]
)
def test_one_and_three_dimensions(kind: Any, shape: tuple[int, ...]) -> None:
    layer = kind(4, 3, 3, padding=1, bias=False)
    weight = PrunableWeight("w", layer)
    x = torch.randn(shape)
    flat = seen(layer, [weight], x)["w"] @ weight.matrix().T
    expected = layer(x).detach().movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(flat, expected, rtol=1e-4, atol=1e-5)


def test_each_group_sees_its_own_channels() -> None:
    layer = nn.Conv2d(8, 6, 3, padding=1, groups=2, bias=False)
    weights = [PrunableWeight(f"w[{g}]", layer, rows=(3 * g, 3 * g + 3)) for g in range(2)]
    x = torch.randn(2, 8, 5, 5)
    rows = seen(layer, weights, x)
    parts = [rows[weight.name] @ weight.matrix().T for weight in weights]
    expected = layer(x).detach().permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-5)


def test_one_weight_over_several_groups_is_refused() -> None:
    layer = nn.Conv2d(8, 6, 3, groups=2)
    with pytest.raises(ModelError, match="one weight a group"):
        seen(layer, [PrunableWeight("w", layer)], torch.randn(1, 8, 5, 5))


def test_an_unbatched_input() -> None:
    layer = nn.Conv2d(4, 6, 1)
    rows = seen(layer, [PrunableWeight("w", layer)], torch.randn(4, 3, 3))["w"]
    assert rows.shape == (9, 4)


def test_two_kernels_of_one_input_share_statistics_only_where_they_see_the_same() -> None:
    one, two, wide = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 3, 3, padding=1)
    keys: dict[str, Any] = {}
    weights = [PrunableWeight(n, c) for n, c in (("one", one), ("two", two), ("wide", wide))]
    x = torch.randn(1, 4, 5, 5)
    with torch.inference_mode(), WeightTap(weights, lambda w, r, key: keys.update({w.name: key})):
        one(x), two(x), wide(x)
    assert keys["one"] == keys["two"] != keys["wide"]


def test_kernels_with_other_padding_do_not_share_statistics() -> None:
    same, valid = nn.Conv2d(4, 3, 3, padding="same"), nn.Conv2d(4, 3, 3, padding="valid")
    keys: dict[str, Any] = {}
    weights = [PrunableWeight("same", same), PrunableWeight("valid", valid)]
    x = torch.randn(1, 4, 5, 5)
    with torch.inference_mode(), WeightTap(weights, lambda w, r, key: keys.update({w.name: key})):
        same(x), valid(x)
    assert keys["same"] != keys["valid"]


def test_multihead_attention_is_taken_apart() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    weights = [
        PrunableWeight("q", attention, "in_proj_weight", rows=(0, 8)),
        PrunableWeight("out", attention.out_proj),
    ]
    x = torch.randn(2, 5, 8)
    rows = seen(lambda y: attention(y, y, y, need_weights=False), weights, x)
    assert torch.equal(rows["q"].sort(0)[0], x.flatten(0, 1).sort(0)[0])
    q, k, v = nn.functional.linear(x, attention.in_proj_weight).view(2, 5, 3, 2, 4).unbind(2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    heads = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
    explicit = heads.transpose(1, 2).reshape(-1, 8).detach()
    torch.testing.assert_close(
        rows["out"].pow(2).sum(0), explicit.pow(2).sum(0), rtol=1e-4, atol=1e-5
    )
    assert torch.backends.mha.get_fastpath_enabled()
