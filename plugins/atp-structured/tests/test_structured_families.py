"""The smaller model computes what the model with the same heads and channels at zero does."""

from __future__ import annotations

import copy

import torch
from _families import FAMILIES, Family, calibration_of, chains_of

from atp_core.records import Calibration
from atp_structured._counts import Budget
from atp_structured._discover import Cuttable, discover
from atp_structured._importance import lowest, scores
from atp_structured._remove import mask, remove


def found_in(family: Family, model: torch.nn.Module) -> list[Cuttable]:
    calibration: Calibration = calibration_of(family, model)
    return discover(chains_of(model), calibration)


def test_units_of_the_first_block(family: Family) -> None:
    model = family.make()
    first = found_in(family, model)[0]
    heads = [group.units for group in first.groups if group.kind == "heads"]
    assert heads == ([family.heads] if family.heads else [])
    channels = [group.units for group in first.groups if group.kind == "channels"]
    assert channels == list(family.channels)


def test_smaller_is_masked(family: Family) -> None:
    """Rates rise over depth, so that no two blocks are cut alike."""
    dense = family.make()
    thin, masked = copy.deepcopy(dense), copy.deepcopy(dense)
    of_thin, of_masked = found_in(family, thin), found_in(family, masked)
    reported = 0
    for i, (one, other) in enumerate(zip(of_thin, of_masked, strict=True)):
        before = one.block.parameters
        budget = Budget(one.block.module, one.block.weights, one.groups)
        counts = budget.counts(0.2 + 0.5 * i / len(of_thin))
        gone = round(budget.removed(counts))
        ranked = [scores(one.block.module, one.block.weights, g, None) for g in one.groups]
        for group, twin, score, count in zip(
            one.groups, other.groups, ranked, counts, strict=True
        ):
            mask(other.block.module, twin, lowest(score, count), other.layers)
            remove(one.block.module, group, lowest(score, count))
        # Weights are counted without a look at the model, and then again in it.
        assert before - one.block.parameters == gone
        reported += gone
    with torch.no_grad():
        whole, left, right = family.run(dense), family.run(thin), family.run(masked)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole, right, rtol=1e-3, atol=1e-4)
    lost = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in thin.parameters())
    assert reported > 0
    assert lost >= reported  # biases and norms go too


def test_nothing_else_changes(family: Family) -> None:
    """Looking for what can go leaves the model as it was."""
    model = family.make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    found_in(family, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


def test_grouped_queries_go_with_their_keys() -> None:
    """8 query heads of 4 features share 4 heads of keys: unit 1 is queries 2 and 3."""
    model = FAMILIES["llama"].make()
    group = found_in(FAMILIES["llama"], model)[0].groups[0]
    index = {one.module: one.index[1].tolist() for one in group.members}
    assert index["self_attn.q_proj"] == list(range(8, 16)) == index["self_attn.o_proj"]
    assert index["self_attn.k_proj"] == list(range(4, 8)) == index["self_attn.v_proj"]


def test_fused_projections_lose_three_parts() -> None:
    """Head 2 of 4 with 8 features: rows 16 to 23 of each third of 32."""
    for name in ("vit", "gpt2"):
        model = FAMILIES[name].make()
        group = found_in(FAMILIES[name], model)[0].groups[0]
        rows = [*range(16, 24), *range(48, 56), *range(80, 88)]
        assert group.members[0].index[2].tolist() == rows


def test_heads_of_open_clip_stay_and_it_is_said() -> None:
    found = found_in(FAMILIES["open-clip"], FAMILIES["open-clip"].make())
    assert all("nn.MultiheadAttention" in one.notes[0] for one in found)


def test_smaller_models_generate_with_a_cache() -> None:
    """Decoding token by token gives what one pass over all of them does."""
    for name in ("llama", "gpt2"):
        family = FAMILIES[name]
        model = family.make()
        for one in found_in(family, model):
            for group in one.groups:
                remove(one.block.module, group, torch.arange(group.units // 2))
        tokens = torch.tensor([[5, 9, 2]])
        with torch.no_grad():
            out = model.generate(
                tokens, max_new_tokens=6, do_sample=False, use_cache=True, pad_token_id=0,
                eos_token_id=None,
            )
            logits = model(out[:, :-1], use_cache=False).logits
        assert out[0, 3:].tolist() == logits[0, 2:].argmax(-1).tolist()


def test_channels_that_are_normalized_together_stay() -> None:
    """ConvNeXt V2 divides by the mean over channels, which changes as some of them go."""
    import timm

    make = lambda: timm.create_model(  # noqa: E731
        "convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5
    ).eval()
    model = make()
    images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    for one in found_in(Family(make, lambda m: m(images), 0, []), model):
        assert not one.groups
