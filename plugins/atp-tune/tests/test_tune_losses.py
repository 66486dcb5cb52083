"""Losses against values that are computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from atp_core.errors import ModelError
from atp_tune._losses import contrastive, distillation, likelihood, predictions


def test_a_token_is_predicted_from_those_before_it() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = math.log(9.0)  # p(2) = 9 / 12 after the first token
    ids = torch.tensor([[1, 2, 3]])
    found, right = predictions(
        "language", SimpleNamespace(logits=logits), {"input_ids": ids}, None
    )
    assert found.shape == (2, 4) and right is not None and right.tolist() == [2, 3]
    wanted = (math.log(12 / 9) + math.log(4)) / 2
    assert float(likelihood(found, right)) == pytest.approx(wanted)


def test_tokens_without_a_label_do_not_count() -> None:
    logits = torch.randn(2, 4, 5)
    labels = torch.tensor([[-100, -100, 3, -100], [-100, 1, 2, 0]])
    found, right = predictions("language", SimpleNamespace(logits=logits), {}, labels)
    assert right is not None and right.tolist() == [3, 1, 2, 0]
    assert torch.equal(found, torch.stack([logits[0, 1], *logits[1, :3]]))


def test_a_decoder_with_an_encoder_predicts_its_own_tokens() -> None:
    batch = {"input_ids": torch.ones(1, 9).long(), "decoder_input_ids": torch.tensor([[0, 4, 2]])}
    outputs = SimpleNamespace(logits=torch.randn(1, 3, 5))
    _, right = predictions("language", outputs, batch, None)
    assert right is not None and right.tolist() == [4, 2]


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    teacher = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    student = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    wanted = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
    assert float(distillation(student, teacher)) == pytest.approx(wanted, rel=1e-5)


def test_contrastive_loss_of_two_pairs() -> None:
    features = torch.eye(2)
    outputs = (features, features, torch.tensor(2.0))
    loss = contrastive(outputs, {"text": torch.tensor([[1, 2], [1, 3]])}, sigmoid=False)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2.0)), rel=1e-5)


def test_a_text_that_occurs_twice_is_right_for_both_images() -> None:
    logits = torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    outputs = SimpleNamespace(logits_per_image=logits)
    same = contrastive(outputs, {"input_ids": torch.tensor([[7], [7]])}, sigmoid=False)
    assert float(same) == pytest.approx(math.log(2))  # the best there is: both are as likely


def test_sigmoid_loss_of_two_pairs() -> None:
    outputs = {
        "image_features": torch.eye(2),
        "text_features": torch.eye(2),
        "logit_scale": torch.tensor(3.0),
        "logit_bias": torch.tensor(-1.0),
    }
    loss = contrastive(outputs, {"text": torch.tensor([[1], [2]])}, sigmoid=True)
    right, wrong = math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(-1.0))
    assert float(loss) == pytest.approx((2 * right + 2 * wrong) / 2, rel=1e-5)


def test_outputs_of_another_form_are_refused() -> None:
    with pytest.raises(ModelError, match="only image classifiers"):
        predictions("classes", torch.zeros(2, 3, 4), None, None)
    with pytest.raises(ModelError, match="only models such as CLIP"):
        contrastive(torch.zeros(2, 3), {"text": torch.tensor([[1], [2]])}, sigmoid=False)
