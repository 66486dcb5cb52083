"""Round-to-nearest and GPTQ on single matrices, against values computed in another way."""

from __future__ import annotations

import pytest
import torch

from atp_core.engine.statistics import Gram
from atp_quant._gptq import quantize_columns
from atp_quant._grid import Spec, round_to_nearest


def test_round_to_nearest_by_hand() -> None:
    # 2 bits: codes −2 … 1, scale = 3 / 1.5 = 2 for the first group and 0.3 / 1.5 = 0.2.
    weight = torch.tensor([[3.0, -3.0, 0.9, 0.0, 0.3, -0.25, 0.09, -0.3]])
    found = round_to_nearest(weight, Spec(2, 4, clip=False))
    assert found.scale.tolist() == [[2.0, pytest.approx(0.2)]]
    # 1.5 rounds to even, 2, which is past the highest code.
    assert found.codes.tolist() == [[1, -2, 0, 0, 1, -1, 0, -2]]
    expected = torch.tensor([[2.0, -4.0, 0.0, 0.0, 0.2, -0.2, 0.0, -0.4]])
    torch.testing.assert_close(found.dense(), expected)


def test_asymmetric_by_hand() -> None:
    # 2 bits from −1 to 5: scale 2; the code of zero is −2 + 0.5, rounded to even: −2.
    weight = torch.tensor([[-1.0, 0.0, 5.0, 2.2]])
    found = round_to_nearest(weight, Spec(2, None, symmetric=False, clip=False))
    assert found.zero is not None
    assert (found.scale.item(), found.zero.item()) == (2.0, -2)
    assert found.dense().tolist() == [[0.0, 0.0, 4.0, 2.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zeros_stay_zeros_and_clipping_never_hurts(bits: int, symmetric: bool) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(24, 64)
    weight[torch.rand_like(weight) < 0.5] = 0.0
    weight[3] = 0.0
    plain = round_to_nearest(weight, Spec(bits, 16, symmetric, clip=False)).dense()
    found = round_to_nearest(weight, Spec(bits, 16, symmetric)).dense()
    assert bool((found[weight == 0] == 0).all())
    assert (found - weight).norm() <= (plain - weight).norm()
    # All but the ends of the range lie within half a step of a code.
    step = (weight.amax() - weight.amin()) / (2**bits - 1)
    assert float((plain - weight).abs().max()) <= float(step) * 1.01


def test_scales_are_those_that_the_stored_dtype_holds() -> None:
    found = round_to_nearest(torch.randn(8, 32), Spec(4, 8, dtype=torch.bfloat16))
    assert found.scale.dtype == torch.bfloat16
    values = found.codes.float().view(8, 4, 8) * found.scale.float().unsqueeze(-1)
    assert torch.equal(found.dense(), values.view(8, 32))


def correlated(rows: int, features: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, 6) @ torch.randn(6, features) + 0.1 * torch.randn(rows, features)


def gram(inputs: torch.Tensor) -> Gram:
    statistics = Gram(inputs.shape[1], inputs.device)
    statistics.add(inputs, 4)
    return statistics


def reference(
    weight: torch.Tensor, inputs: torch.Tensor, bits: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Optimal brain surgeon in float64: after each column the inverse Hessian loses a row.

    Returns:
        The weights, and how near each row came to the border of two codes, in codes.
    """
    x = inputs.double()
    hessian = x.T @ x * (2.0 / 4)
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(x.shape[1], dtype=torch.float64)
    work, out = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    nearest = torch.full((weight.shape[0],), torch.inf, dtype=torch.float64)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for j in range(weight.shape[1]):
        if j % width == 0:
            scale = work[:, j : j + width].abs().amax(1) / (most + 0.5)
        inverse = torch.linalg.inv(hessian[j:, j:])
        exact = work[:, j] / scale
        nearest = torch.minimum(nearest, (exact.remainder(1.0) - 0.5).abs())
        out[:, j] = exact.round().clamp(least, most) * scale
        error = (work[:, j] - out[:, j]) / inverse[0, 0]
        work[:, j:] -= error.unsqueeze(1) * inverse[0]
    return out, nearest


@pytest.mark.parametrize(("bits", "width"), [(3, 16), (4, 48)])
def test_gptq_is_the_column_by_column_algorithm(bits: int, width: int) -> None:
    inputs = correlated(200, 48)
    weight = torch.randn(40, 48)
    spec = Spec(bits, width if width < 48 else None, clip=False)
    found, notes = quantize_columns(weight, gram(inputs), spec)
    assert not notes
    expected, nearest = reference(weight, inputs, bits, width)
    # A weight that lies on the border of two codes may fall to either side in float32, and the rest
    # of its row follows it.
    clear = nearest > 1e-3
    assert int(clear.sum()) >= 20
    assert float((found.dense().double() - expected)[clear].abs().max()) < 1e-3


@pytest.mark.parametrize("group", [16, 96, 200, None])
def test_gptq_beats_rounding_on_correlated_inputs(group: int | None) -> None:
    columns = {16: 160, 96: 192, 200: 400, None: 300}[group]  # also groups that cross blocks
    inputs = correlated(600, columns)
    weight = torch.randn(12, columns)
    spec = Spec(3, group)
    found, _ = quantize_columns(weight, gram(inputs), spec)
    nearest = round_to_nearest(weight, spec)

    def loss(dense: torch.Tensor) -> float:
        return float((inputs @ (dense - weight).T).square().sum())

    assert loss(found.dense()) < 0.5 * loss(nearest.dense())


def test_gptq_keeps_zeros_and_cuts_as_many_as_asked_for() -> None:
    inputs = correlated(400, 160)
    weight = torch.randn(10, 160)
    weight[torch.rand_like(weight) < 0.3] = 0.0
    statistics = gram(inputs)
    for symmetric in (True, False):
        spec = Spec(8, 32, symmetric)
        kept, _ = quantize_columns(weight, statistics, spec)
        assert bool((kept.dense()[weight == 0] == 0).all())
        cut, _ = quantize_columns(weight, statistics, spec, rate=0.6)
        assert bool((cut.dense()[weight == 0] == 0).all())
        # With 8 bits few other weights round to zero.
        assert 960 <= int((cut.dense() == 0).sum()) <= 1000


def test_joint_is_better_than_one_after_the_other_by_magnitude() -> None:
    inputs = correlated(400, 128)
    weight = torch.randn(16, 128)
    spec = Spec(4, 32)
    joint, _ = quantize_columns(weight, gram(inputs), spec, rate=0.5)
    threshold = weight.abs().flatten().kthvalue(16 * 64).values
    cut = weight.masked_fill(weight.abs() <= threshold, 0.0)
    nearest = round_to_nearest(cut, spec)
    losses = [
        float((inputs @ (one.dense() - weight).T).square().sum()) for one in (joint, nearest)
    ]
    assert losses[0] < 0.5 * losses[1]


def test_an_input_that_is_never_seen_gets_zeros() -> None:
    inputs = correlated(100, 32)
    inputs[:, 5] = 0.0
    found, _ = quantize_columns(torch.randn(4, 32), gram(inputs), Spec(4, 16))
    assert bool((found.dense()[:, 5] == 0).all())
    assert bool(torch.isfinite(found.dense()).all())
