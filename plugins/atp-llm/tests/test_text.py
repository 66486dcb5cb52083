"""Documents, and the parts they are cut into."""

from __future__ import annotations

import gzip
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp_core.errors import DataError
from atp_core.records import DataRequest, Source
from atp_llm._plain import (
    GROUP,
    paragraph_groups,
    plain_documents,
    wikitext_documents,
    wikitext_rows,
)
from atp_llm._readers import read
from atp_llm._text import corpus_for, cut_documents, digest, spec_for

LOCAL = Source("embedded:smollm2-135m")
THIRDS = {"calibration": 0.5, "search": 0.2, "report": 0.3}
documents = st.lists(st.text(min_size=1, max_size=50), max_size=30)


@given(documents, st.randoms(use_true_random=False))
def test_parts_are_disjoint_complete_and_do_not_depend_on_order(texts: list[str], rng: Any) -> None:
    parts = cut_documents(texts, THIRDS)
    sets = {name: {digest(text) for text in part} for name, part in parts.items()}
    assert sum(map(len, sets.values())) == len(set().union(*sets.values()))
    assert set().union(*sets.values()) == {digest(text) for text in texts if text.strip()}
    shuffled = rng.sample(texts, len(texts))
    again = cut_documents(shuffled, THIRDS)
    assert {name: {digest(t) for t in part} for name, part in again.items()} == sets


def test_parts_have_about_their_share() -> None:
    texts = [f"{i} " * (1 + i % 7) for i in range(500)]
    total = sum(map(len, texts))
    for name, part in cut_documents(texts, THIRDS).items():
        assert sum(map(len, part)) / total == pytest.approx(THIRDS[name], abs=0.01)


def test_duplicates_do_not_cross_parts() -> None:
    parts = cut_documents([f"document {i % 10}" for i in range(100)], THIRDS)
    assert sum(map(len, parts.values())) == 10


@given(st.text(alphabet="ab \n=", max_size=400))
def test_wikitext_articles_join_to_the_rows_of_the_dataset(text: str) -> None:
    rows = wikitext_rows(text)
    assert "\n\n".join(wikitext_documents(rows)) == "\n\n".join(rows)


def test_wikitext_rows_and_articles(shared: Callable[[str], Path]) -> None:
    path = shared("data/wikitext-2-raw/wiki.test.raw")
    rows = wikitext_rows(path.read_text(encoding="utf-8"))
    assert len(rows) == 4358  # rows of the test split of Salesforce/wikitext
    assert rows[:3] == ["", " = Robert Boulter = \n", ""]
    name, articles = read(str(path))
    assert name == "wiki.test.raw"
    assert "\n\n".join(articles) == "\n\n".join(rows)
    assert sum(article.startswith(" = ") for article in articles) > 55
    assert not any(article.startswith(" = = ") for article in articles)


@given(st.lists(st.text(alphabet="abc \n", max_size=3000), max_size=5))
def test_gathered_paragraphs_keep_all_words(texts: list[str]) -> None:
    text = "\n\n".join(texts)
    groups = paragraph_groups(text)
    assert " ".join(groups).split() == text.split()
    assert all(len(group) >= GROUP // 4 for group in groups[:-1])


def test_how_plain_text_is_cut() -> None:
    long_lines = "\n".join(f"{i} " * 300 for i in range(5))
    assert len(plain_documents(long_lines)) == 5
    extracted = '<doc id="1" title="A">\nA\n\ntext a\n</doc>\n<doc id="2">\nB\n</doc>\n'
    assert plain_documents(extracted) == ["A\n\ntext a", "B"]
    short = "\n\n".join(f"paragraph {i}" for i in range(1000))
    assert len(plain_documents(short)) == pytest.approx(len(short) / GROUP, rel=0.1)
    one_paragraph = "\n".join(f"line {i}" for i in range(1000))
    assert len(plain_documents(one_paragraph)) > 3
    assert plain_documents(" \n\n ") == []


def test_c4_sample_has_a_document_a_line(shared: Callable[[str], Path]) -> None:
    assert len(read(str(shared("data/c4-cal/c4.utf8")))[1]) == 118


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n'),
        ("a.jsonl", '"one"\n"two"'),
        ("a.jsonl", '{"content": "one"}\n{"messages": [{"role": "user", "content": "two"}]}'),
        ("a.json", '["one", {"text": "two"}]'),
        ("a.json", '{"text": "one"}\n{"text": "two"}'),
        ("a.jsonl.gz", '{"text": "one"}\n{"text": "two"}\n'),
    ],
)
def test_json_forms(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    data = content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read(str(path)) == (name, ["one", "two"])


def test_chats_join_their_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "hi"}, {"type": "image"}]},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    assert read(str(path))[1] == ["hello\n\nhi"]


def test_directories_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "two"}', encoding="utf-8")
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    assert read(str(tmp_path))[1] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text"', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"txt": "one"}', r'line 1 has no text: expected .* "text"'),
        ("a.json", b"[3]", "entry 1 has no text"),
        ("a.json", b"3", "neither a JSON list nor JSON lines|has no text"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read as UTF-8"),
        ("a.txt", b"  \n ", "holds no text"),
        ("a.txt.gz", b"not gzip", "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(str(path))


def test_missing_text_and_empty_directories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no text '/no/such\.txt'"):
        read("/no/such.txt")
    with pytest.raises(DataError, match="has no text files"):
        read(str(tmp_path))


def test_defaults_follow_the_source(tmp_path: Path) -> None:
    nothing = DataRequest()
    for source in (LOCAL, Source(str(tmp_path)), Source("m", model=object())):
        assert spec_for(source, nothing, "calibration") == "builtin"
        assert spec_for(source, nothing, "report") == "builtin"
    hub = Source("org/name")
    assert spec_for(hub, nothing, "search") == "c4"
    assert spec_for(hub, nothing, "report") == "wikitext2"
    asked = DataRequest(calibration="a.txt", report="b.txt")
    assert [spec_for(hub, asked, s) for s in ("calibration", "search", "report")] == [
        "a.txt", "a.txt", "b.txt"
    ]  # fmt: skip


def test_builtin_text_serves_all_splits() -> None:
    parts = {s: corpus_for(LOCAL, DataRequest(), s) for s in ("calibration", "search", "report")}
    total = sum(part.characters for part in parts.values())
    assert total > 300_000
    for name, part in parts.items():
        assert part.characters / total == pytest.approx(THIRDS[name], abs=0.03)
    ids = [{digest(d) for d in part.documents} for part in parts.values()]
    assert len(set().union(*ids)) == sum(map(len, ids))


def test_missing_builtin_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match=r"pydoc_data.topics.*--calibration FILE"):
        read("builtin")


def test_one_file_for_all_is_cut_three_ways(story_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "something else"}', encoding="utf-8")
    same = DataRequest(calibration=str(story_file), report=str(story_file))
    apart = DataRequest(calibration=str(story_file), report=str(other))
    assert corpus_for(LOCAL, same, "report").name == "stories.jsonl, report part"
    assert corpus_for(LOCAL, apart, "report").documents == ("something else",)
    shares = [
        corpus_for(LOCAL, request, "calibration").characters
        / sum(map(len, read(str(story_file))[1]))
        for request in (same, apart)
    ]
    assert shares == pytest.approx([0.5, 0.65], abs=0.02)


def test_too_few_documents_to_cut(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"text": "only one"}', encoding="utf-8")
    with pytest.raises(DataError, match="has 1 documents, too few"):
        corpus_for(LOCAL, DataRequest(calibration=str(path), report="builtin"), "search")


def _fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    module: Any = types.ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(path: str, config: str | None, **options: Any) -> list[dict[str, str]]:
        calls.append((path, config, options.get("split"), options.get("data_files")))
        return [{"text": " = A = \n", "body": "x"}, {"text": "words\n", "body": "y"}]

    _fake_datasets(monkeypatch, load)
    assert read("hf:org/data:conf:validation:body")[1] == ["x", "y"]
    assert len(read("hf:org/data")[1]) == 2
    assert len(read("c4")[1]) == 2
    assert read("wikitext2", report=True)[1] == [" = A = \n\n\nwords\n"]
    train, validation = (
        "en/c4-train.00000-of-01024.json.gz",
        "en/c4-validation.00000-of-00008.json.gz",
    )
    read("c4", report=True)
    assert calls == [
        ("org/data", "conf", "validation", None),
        ("org/data", None, "train", None),
        ("allenai/c4", None, "train", {"train": train}),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", None),
        ("allenai/c4", None, "train", {"train": validation}),
    ]
    with pytest.raises(DataError, match="no field 'nope'"):
        read("hf:org/data:::nope")


def test_hub_failures_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the hub")

    _fake_datasets(monkeypatch, load)
    with pytest.raises(DataError, match=r"Couldn't reach the hub.*--calibration FILE"):
        read("c4")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'atp-prune-llm\[hub\]'"):
        read("wikitext2")
