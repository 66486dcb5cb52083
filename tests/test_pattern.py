"""N:M sparsity: parsing, whole numbers of groups, methods, and runs by a pattern."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import atp_core
from atp_core.allocation.budget import weighted_mean
from atp_core.cli import main
from atp_core.engine.statistics import Gram
from atp_core.errors import UsageError
from atp_core.methods.alps import ALPS
from atp_core.methods.dsnot import DSnoT
from atp_core.methods.magnitude import Magnitude
from atp_core.methods.patterned import Patterned
from atp_core.methods.selection import keep_highest_in_groups
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import Wanda
from atp_core.pattern import Pattern, whole_rates
from atp_core.recipe import Recipe

CPU = torch.device("cpu")
METHODS = [Magnitude(), Wanda(), SparseGPT(), ALPS()]


def noise(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def kept_in_groups(mask: torch.Tensor, of: int) -> torch.Tensor:
    """How many are kept of each whole group, shape (rows, groups)."""
    whole = mask.shape[1] - mask.shape[1] % of
    return mask[:, :whole].reshape(len(mask), -1, of).sum(-1)


# --- the pattern ---------------------------------------------------------------------------------


def test_patterns_are_read() -> None:
    assert Pattern.parse("2:4") == Pattern(4, 2) and Pattern.parse("2:4").sparsity == 0.5
    assert Pattern.parse(" mixed:8 ") == Pattern(8, None)
    assert Pattern.parse("mixed:8").sparsity is None
    for text in ("2:2", "4:2", "0:4", "2", "2:4:8", "mixed:1", "2:1000", "a:4", ""):
        with pytest.raises(ValueError, match="such as 2:4"):
            Pattern.parse(text)


def test_rates_become_whole_numbers_of_groups() -> None:
    # Kept of 8: 4.8, 4.0, 3.2; the budget of 12 has room for one more, where most was lost.
    assert whole_rates([0.4, 0.5, 0.6], [1, 1, 1], 0.5, 8) == [1 - 5 / 8, 0.5, 1 - 3 / 8]
    # Uniform 0.55 keeps 3.6 of 8: three of five blocks keep 4, spread over depth.
    found = whole_rates([0.55] * 5, [10] * 5, 0.55, 8)
    assert sorted(found) == [0.5] * 3 + [0.625] * 2 and found[0] == 0.5
    assert whole_rates([0.5] * 3, [1, 2, 3], 0.5, 8) == [0.5] * 3
    # A block that is three times as large does not fit any more; a small one does.
    assert whole_rates([0.45, 0.45], [1, 3], 0.45, 2) == [0.5, 0.5]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whole_rates_meet_the_budget_within_a_step(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    of = data.draw(st.sampled_from([2, 4, 8, 16]))
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    rates = sorted(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    target = weighted_mean(sizes, rates)
    found = whole_rates(rates, sizes, target, of)
    reached = weighted_mean(sizes, found)
    assert target - 1e-9 <= reached <= target + max(sizes) / (of * sum(sizes)) + 1e-9
    for rate, one in zip(rates, found, strict=True):
        assert (1 - one) * of == pytest.approx(round((1 - one) * of))
        assert abs(one - rate) < 1 / of + 1e-9
    if len(set(sizes)) == 1:
        steps = [round((1 - one) * of) for one in found]
        differing = [
            (a, b)
            for a, b, one, other in zip(steps, steps[1:], rates, rates[1:], strict=False)
            if other - one > 1e-8
        ]
        assert all(a >= b for a, b in differing), "where rates rise, what is kept falls"


# --- methods -------------------------------------------------------------------------------------


def test_the_highest_of_each_group_are_kept() -> None:
    scores = noise(7, 22)
    mask = keep_highest_in_groups(scores, 3, 8)
    for row, kept in zip(scores, mask, strict=True):
        for start, count in ((0, 3), (8, 3), (16, 2)):  # of the last six 2.25, rounded
            group = row[start : start + 8]
            wanted = set(group.topk(count).indices.tolist())
            assert set(kept[start : start + 8].nonzero()[:, 0].tolist()) == wanted
    ties = keep_highest_in_groups(torch.ones(1, 4), 2, 4)
    assert ties.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("keep, of", [(2, 4), (5, 8), (3, 16), (9, 20)])
def test_of_equal_scores_in_a_group_the_first_are_dropped(keep: int, of: int) -> None:
    scores = noise(5, 3 * of).mul(2).round()  # many ties
    mask = keep_highest_in_groups(scores, keep, of).view(-1, of)
    for group, kept in zip(scores.view(-1, of), mask, strict=True):
        dropped = group.argsort(stable=True)[: of - keep]
        assert set(dropped.tolist()) == set((~kept).nonzero().flatten().tolist())


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.name)
@pytest.mark.parametrize("keep, of", [(2, 4), (1, 4), (3, 8), (7, 8)])
def test_every_group_has_its_number(method: Any, keep: int, of: int) -> None:
    weight, x = noise(12, 40), noise(90, 40, 1) @ noise(40, 40, 2)
    statistics = method.statistics(40, CPU)
    if statistics is not None:
        statistics.add(x, 3)
    before = weight.clone()
    pruned = Patterned(method, Pattern(of, keep)).prune(weight, 1 - keep / of, statistics)
    assert bool((kept_in_groups(pruned.mask, of) == keep).all())
    assert torch.equal(weight, before) and not pruned.notes
    if pruned.weight is not None:
        assert not pruned.weight[~pruned.mask].any()


def reference_sweep(weight: torch.Tensor, gram: torch.Tensor, keep: int, of: int) -> torch.Tensor:
    """SparseGPT by groups in float64, one column after the other, as its paper writes it."""
    work, hessian = weight.double().clone(), gram.double() * 2.0
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    inverse = torch.linalg.inv(hessian)
    upper = torch.linalg.cholesky(inverse, upper=True)
    columns = work.shape[1]
    drop = torch.zeros_like(work, dtype=torch.bool)
    for j in range(columns):
        if j % of == 0:
            stop = min(j + of, columns)
            scores = (work[:, j:stop] / upper.diagonal()[j:stop]).square()
            order = scores.argsort(dim=1, stable=True)
            drop[:, j:stop].scatter_(1, order[:, : stop - j - keep], True)
        error = torch.where(drop[:, j], work[:, j] / upper[j, j], 0.0)
        work[:, j:] -= error[:, None] * upper[j, j:]
    return work.masked_fill(drop, 0.0)


@pytest.mark.parametrize("keep, of", [(2, 4), (3, 8)])
def test_sparsegpt_by_groups_is_the_papers(keep: int, of: int) -> None:
    weight, x = noise(10, 24), noise(200, 24, 1) @ (noise(24, 24, 2) / 5 + torch.eye(24))
    statistics = Gram(24, CPU)
    statistics.add(x, 1)
    pruned = SparseGPT().prune_pattern(weight, keep, of, statistics)
    wanted = reference_sweep(weight, x.T @ x, keep, of)
    assert pruned.weight is not None
    assert torch.equal(pruned.mask, wanted != 0)
    assert torch.allclose(pruned.weight.double(), wanted, rtol=1e-3, atol=1e-4)


def test_tails_and_ends() -> None:
    weight = noise(5, 10)
    pruned = Patterned(Magnitude(), Pattern(4, 2)).prune(weight, 0.5, None)
    assert bool((kept_in_groups(pruned.mask, 4) == 2).all())
    assert bool((pruned.mask[:, 8:].sum(1) == 1).all())
    assert pruned.notes == [
        "10 inputs are no multiple of 4: of the last 2 of each row 1 are kept"
    ]
    mixed = Patterned(Magnitude(), Pattern(8))
    assert bool(mixed.prune(weight, 0.0, None).mask.all())
    assert not mixed.prune(weight, 1.0, None).mask.any()
    assert int(mixed.prune(noise(3, 8), 0.625, None).mask.sum()) == 9


def test_a_method_without_patterns_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'dsnot' cannot prune by a pattern"):
        Patterned(DSnoT(), Pattern(4, 2))


# --- recipes and runs ----------------------------------------------------------------------------


def test_a_fixed_pattern_settles_sparsity_and_allocation() -> None:
    recipe = Recipe.make({"source": "x", "pattern": "2:4"})
    assert (recipe.sparsity, recipe.allocation) == (0.5, "uniform")
    assert Recipe.make({"source": "x", "pattern": "1:4", "sparsity": 0.75}).sparsity == 0.75
    for wrong, told in (
        ({"sparsity": 0.6}, "`sparsity` can only be 0.5, not 0.6"),
        ({"allocation": "atp"}, "`allocation` can only be uniform, not atp"),
        ({"schedule": "s.json"}, "there is no `schedule`"),
    ):
        with pytest.raises(UsageError, match=told):
            Recipe.make({"source": "x", "pattern": "2:4", **wrong})
    mixed = Recipe.make({"source": "x", "pattern": "mixed:8", "sparsity": 0.6})
    assert mixed.allocation == "atp"
    with pytest.raises(UsageError, match=r"pattern.*such as 2:4"):
        Recipe.make({"source": "x", "pattern": "4:2", "sparsity": 0.5})


@pytest.fixture
def stories(shared: Callable[[str], Path]) -> Path:
    return shared("models/stories260k")


FEW: dict[str, Any] = {
    "samples": 8, "search_samples": 2, "report_samples": 2, "seqlen": 32, "baseline": False,
}  # fmt: skip


def masks_of(output: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(output / "model.safetensors")
    return {name: value != 0 for name, value in tensors.items() if "layers." in name}


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_two_of_four_from_the_command_line(
    stories: Path, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(stories), "--pattern", "2:4", "--method", method, "--json"]
    words += ["--samples", "8", "--search-samples", "2", "--report-samples", "2"]
    words += ["--seqlen", "32", "--no-baseline", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sparsity_achieved"] == pytest.approx(0.5, abs=0.01)
    for name, mask in masks_of(tmp_path / "out").items():
        if mask.dim() == 2:
            assert bool((kept_in_groups(mask, 4) <= 2).all()), name
    assert Recipe.load(tmp_path / "out" / "recipe.yaml").pattern == "2:4"
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    [chain] = json.loads(capsys.readouterr().out)["chains"]
    assert all("2:4" in block["patterns"] for block in chain["blocks"])
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "2:4, 4:8" in capsys.readouterr().out
    assert main(["inspect", str(stories), "--json"]) == 0
    [dense] = json.loads(capsys.readouterr().out)["chains"]
    assert all(block["patterns"] == [] for block in dense["blocks"])


def test_mixed_groups_follow_the_schedule(stories: Path, tmp_path: Path) -> None:
    result = atp_core.prune(
        str(stories), pattern="mixed:8", sparsity=0.6, beta=0.1, output=tmp_path / "out", **FEW
    )
    rates = list(result.schedule.rates["decoder"].values())
    steps = [(1 - rate) * 8 for rate in rates]
    assert steps == pytest.approx([round(one) for one in steps])
    assert steps == sorted(steps, reverse=True) and len(set(steps)) > 1
    assert 0.6 <= result.sparsity <= 0.6 + 1 / 8
    masks = masks_of(tmp_path / "out")
    for i, step in enumerate(steps):
        mask = masks[f"model.layers.{i}.mlp.down_proj.weight"]
        assert bool((kept_in_groups(mask, 8) <= round(step)).all())


def test_a_method_without_patterns_is_told_before_anything_is_loaded(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(stories), "--pattern", "2:4", "--method", "dsnot"]
    assert main([*words, "-o", str(tmp_path / "o")]) == 2
    assert "cannot prune by a pattern" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
