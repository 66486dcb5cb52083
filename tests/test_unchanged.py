"""Changes of a model that must not be made, each noticed and named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from towers import Towers

from atp_core._unchanged import Watch


class Model(Towers):
    """Towers with a buffer and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("scale", torch.ones(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (samples, width) in and out."""
        result: torch.Tensor = self.norm(super().forward(x)) * self.scale
        return result


def double(model: Any) -> None:
    with torch.no_grad():
        model.left[0].weight.mul_(2)


def through_data(model: Any) -> None:
    model.left[0].weight.data.mul_(2)


def through_detached(model: Any) -> None:
    model.left[0].weight.detach().add_(1)


def other_data(model: Any) -> None:
    model.left[0].weight.data = torch.zeros(16, 16)


def other_class(model: Any) -> None:
    class Renamed(nn.Linear):
        pass

    model.left[0].__class__ = Renamed


CHANGES: list[tuple[Callable[[Any], object], str]] = [
    (double, "values of left.0.weight were written"),
    (through_data, "values of left.0.weight were written"),
    (through_detached, "values of left.0.weight were written"),
    (other_data, "the memory of left.0.weight was replaced"),
    (lambda m: m.half(), "the memory of left.0.weight was replaced"),
    (lambda m: m.scale.zero_(), "values of scale were written"),
    (lambda m: m.left[0].weight.requires_grad_(False),
     "requires_grad of left.0.weight became False"),
    (lambda m: m.eval(), "norm was put into eval mode"),
    (lambda m: m.norm.eval(), "norm was put into eval mode"),
    (lambda m: m.left.__setitem__(0, nn.Linear(16, 16)), "left.0 was replaced"),
    (lambda m: m.add_module("more", nn.Linear(2, 2)), "more was added"),
    (lambda m: delattr(m, "norm"), "norm was taken out"),
    (lambda m: setattr(m.left[0], "weight", nn.Parameter(torch.zeros(16, 16))),
     "left.0.weight was replaced"),
    (lambda m: setattr(m.left[0], "bias", None), "left.0.bias was taken out"),
    (lambda m: m.register_buffer("extra", torch.ones(2)), "extra was added"),
    (lambda m: m.left[0].register_forward_hook(lambda *_: None), "hooks were registered on left.0"),
    (lambda m: m.register_forward_pre_hook(lambda *_: None), "on the model itself"),
    (lambda m: setattr(m.left[0], "forward", lambda x: x), "the forward of left.0 was replaced"),
    (other_class, "left.0 became a Renamed"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_a_change_is_noticed(change: Callable[[Any], object], told: str) -> None:
    model = Model()
    watch = Watch(model)
    assert list(watch.changes()) == []
    change(model)
    assert any(told in found for found in watch.changes()), list(watch.changes())


@pytest.mark.parametrize("change", [double, through_data, through_detached, other_data])
def test_inference_tensors_have_no_counter_and_are_watched_all_the_same(
    change: Callable[[Any], object],
) -> None:
    with torch.inference_mode():
        model = Model()
        watch = Watch(model)
        assert list(watch.changes()) == []
        change(model)
        [told] = watch.changes()
    assert "left.0.weight" in told


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Model()
    watch = Watch(model)
    assert list(watch.changes()) == []
    double(model)
    assert list(watch.changes()) == ["values of left.0.weight were written"]
    watch = Watch(model)
    model.left[0].weight.data = torch.zeros(16, 16, device="meta")
    assert list(watch.changes()) == ["the memory of left.0.weight was replaced"]


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
def test_reading_and_running_changes_nothing(guard: Any) -> None:
    model = Model().eval()
    watch = Watch(model)
    with guard():
        model(torch.randn(2, 16))
        for parameter in model.parameters():
            parameter.detach().float().transpose(0, -1).sum()
        handle = model.left[0].register_forward_hook(lambda *_: None)
        handle.remove()
    assert list(watch.changes()) == []


def test_a_forward_in_training_mode_does() -> None:
    model = Model()
    watch = Watch(model)
    model(torch.randn(2, 16))
    assert any("norm.running_mean" in told for told in watch.changes())


def test_nan_is_equal_to_itself() -> None:
    model = Model()
    with torch.no_grad():
        model.left[0].weight.fill_(float("nan"))
    assert list(Watch(model).changes()) == []


def test_tensors_without_elements_and_lazy_ones() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Module())
    model[1].empty = nn.Parameter(torch.empty(0, 4))
    assert list(Watch(model).changes()) == []
