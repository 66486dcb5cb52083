"""Chats: which tokens are the assistant's, and which chats are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import atp_tune
from atp_core.errors import DataError, ModelError
from atp_core.recipe import Recipe
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source

PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>{% generation %}"
    "{{ m['content'] }}</>{% endgeneration %}{% else %}<{{ m['role'] }}>{{ m['content'] }}</>"
    "{% endif %}{% endfor %}"
)
FORGETFUL = "{{ messages[-1]['content'] }}"


def chats(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Add {i}."},
                {"role": "assistant", "content": f"It is {i + 1}."},
                {"role": "user", "content": "And one?"},
                {"role": "assistant", "content": f"{i + 2}!"},
            ]
        }
        for i in range(count)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Forty chats."""
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats(40))), encoding="utf-8")
    return path


@pytest.fixture
def loaded() -> LoadedModel:
    """A tiny Llama with a token a byte and a chat template."""
    import atp_llm
    from atp_llm._examples import byte_tokenizer, tiny_llama

    found = atp_llm.atp_load(
        Source("LlamaForCausalLM", tiny_llama(), byte_tokenizer()), LoadRequest()
    )
    found.processor.chat_template = PLAIN
    return found


def recipe(file: Path, **more: Any) -> Recipe:
    return Recipe.make({"source": "m", "sparsity": 0.0, "calibration": str(file), **more})


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
def test_only_the_assistants_words_are_learned(
    template: str, file: Path, loaded: LoadedModel
) -> None:
    from atp_tune._chat import chat_samples

    loaded.processor.chat_template = template
    found = chat_samples(loaded, recipe(file, seqlen=64, samples=40), 40)
    for ids, labels in zip(found.ids, found.labels, strict=True):
        whole = bytes_of(loaded, ids[0])
        number = int(whole.split("Add ")[1].split(".")[0])
        said = f"It is {number + 1}.</>{number + 2}!</>"
        start = f"<user>Add {number}.</><assistant>It is {number + 1}.</><user>And one?</>"
        assert whole.startswith(start[:64])
        learned = bytes_of(loaded, labels[0][labels[0] != -100])
        assert said.startswith(learned) and learned
        assert bool(((labels == -100) | (labels == ids)).all())


def bytes_of(loaded: LoadedModel, ids: Any) -> str:
    return str(loaded.processor.decode(ids))


@pytest.mark.parametrize("report", [None, "same"])
def test_chats_are_those_that_pruning_was_calibrated_on(
    report: str | None, file: Path, loaded: LoadedModel
) -> None:
    """The same file is cut alike as text, so its search and report parts stay untouched."""
    from atp_llm._text import corpus_for, digest
    from atp_tune._chat import chat_samples

    of_report = None if report is None else str(file)
    asked = recipe(file, seqlen=64, report_data=of_report)
    found = chat_samples(loaded, asked, 40)
    data = DataRequest(calibration=str(file), report=of_report)
    parts = {
        split: frozenset(map(digest, corpus_for(loaded.source, data, split).documents))
        for split in ("calibration", "search", *(["report"] if report else []))  # type: ignore[arg-type]
    }
    assert found.examples == parts.pop("calibration")
    assert not any(found.examples & other for other in parts.values())


def test_what_is_wrong_with_chats(file: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    from atp_tune._chat import chat_samples, is_chat

    assert is_chat(str(file)) and not is_chat(None) and not is_chat("builtin")
    with pytest.raises(DataError, match="the assistant says nothing within 4 tokens"):
        chat_samples(loaded, recipe(file, seqlen=4), 40)
    loaded.processor.chat_template = FORGETFUL
    with pytest.raises(DataError, match="changes earlier turns as a chat grows"):
        chat_samples(loaded, recipe(file, seqlen=64), 40)
    loaded.processor.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        chat_samples(loaded, recipe(file), 40)
    loaded.processor.chat_template = PLAIN
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(DataError, match='line 1 must have a "role" and a "content" of text'):
        chat_samples(loaded, recipe(broken), 40)


def test_a_model_learns_from_chats(file: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    import atp_core

    source = tmp_path / "dense"
    loaded.model.save_pretrained(source)
    loaded.processor.save_pretrained(source)
    pruned = tmp_path / "pruned"
    atp_core.prune(
        str(source),
        sparsity=0.5,
        method="magnitude",
        allocation="uniform",
        baseline=False,
        seqlen=32,
        report_samples=2,
        output=pruned,
    )
    result = atp_tune.tune(
        pruned, output=tmp_path / "out", calibration=str(file), steps=30, lr=0.02, batch=4
    )
    assert 24 <= result.samples <= 28  # 65 % of the characters of 40
    assert result.loss_last < result.loss_first
