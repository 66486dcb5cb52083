"""Reading and splitting data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp_core.data import (
    SHARES,
    digest_of,
    find_images,
    open_image,
    partition,
    read_classes,
    read_jsonl,
    read_templates,
    same_source,
    take,
)
from atp_core.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def picture(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (colour, 0, 0)).save(path)
    return path


@given(st.lists(st.text(max_size=5), max_size=40))
def test_parts_are_disjoint_complete_and_blind_to_order(texts: list[str]) -> None:
    def identity(text: str) -> str:
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    for shares in SHARES.values():
        parts = partition(texts, shares, identity)
        assert set(parts) == set(shares)
        together = [text for part in parts.values() for text in part]
        assert sorted(together) == sorted(set(texts))
        turned = partition(texts[::-1], shares, identity)
        assert {k: set(v) for k, v in turned.items()} == {k: set(v) for k, v in parts.items()}


def test_parts_have_their_shares() -> None:
    parts = partition(range(1000), SHARES[True], lambda i: digest_of(str(i).encode()))
    assert {name: len(part) for name, part in parts.items()} == {
        "calibration": 500,
        "search": 200,
        "report": 300,
    }


def test_a_sample_of_groups_is_even_and_seeded() -> None:
    examples = [(label, i) for label, count in (("a", 50), ("b", 5)) for i in range(count)]
    chosen = take(examples, 10, seed=0, group=lambda example: example[0])
    assert sum(label == "b" for label, _ in chosen) == 5
    assert chosen == take(examples, 10, seed=0, group=lambda example: example[0])
    assert chosen != take(examples, 10, seed=1, group=lambda example: example[0])
    assert len(take(examples, 10**6, seed=0, group=lambda example: example[0])) == 55


class TestImages:
    def test_class_folders(self, tmp_path: Path) -> None:
        picture(tmp_path / "dog" / "1.png")
        picture(tmp_path / "cat" / "deeper" / "2.JPG")
        (tmp_path / ".hidden").mkdir()
        (tmp_path / "README.md").write_text("about", "utf-8")
        found = find_images(tmp_path)
        assert [(image.path.name, image.label) for image in found] == [
            ("2.JPG", "cat"),
            ("1.png", "dog"),
        ]

    def test_a_folder_without_labels_and_one_file(self, tmp_path: Path) -> None:
        one = picture(tmp_path / "a.png")
        assert [image.label for image in find_images(tmp_path)] == [None]
        assert find_images(one)[0].path == one

    def test_identity_is_of_the_content(self, tmp_path: Path) -> None:
        one, same = picture(tmp_path / "a.png", 7), picture(tmp_path / "b.png", 7)
        other = picture(tmp_path / "c.png", 8)
        a, b, c = find_images(tmp_path)
        assert a.identity == b.identity == digest_of(one.read_bytes())
        assert c.identity == digest_of(other.read_bytes()) != digest_of(same.read_bytes())

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ([], "no images"),
            (["x/notes.txt"], r"notes\.txt is not an image"),
            (["x/"], r"class folder .*x holds no images"),
            (["x/1.png", "2.png"], r"2\.png beside class folders"),
        ],
    )
    def test_what_is_no_image_folder(self, tmp_path: Path, files: list[str], told: str) -> None:
        for name in files:
            if name.endswith("/"):
                (tmp_path / name).mkdir()
            elif name.endswith("png"):
                picture(tmp_path / name)
            else:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text("text", "utf-8")
        with pytest.raises(DataError, match=told):
            find_images(tmp_path)

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no image"):
            find_images(tmp_path / "nothing")

    def test_unreadable_images_are_named(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty.png"
        empty.touch()
        with pytest.raises(DataError, match=r"empty\.png is empty \(0 bytes\)"):
            open_image(empty)
        text = tmp_path / "text.png"
        text.write_text("no picture", "utf-8")
        with pytest.raises(DataError, match=r"text\.png is not an image"):
            open_image(text)
        whole = tmp_path / "noise.png"
        Image.effect_noise((64, 64), 90).save(whole)
        cut = tmp_path / "cut.png"
        cut.write_bytes(whole.read_bytes()[:500])
        with pytest.raises(DataError, match=r"cut\.png cannot be read"):
            open_image(cut)

    def test_images_come_upright_and_in_rgb(self, tmp_path: Path) -> None:
        path = tmp_path / "turned.png"
        image = Image.new("L", (4, 3))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image.save(path, exif=exif)
        shown = open_image(path)
        assert (shown.mode, shown.size) == ("RGB", (3, 4))


class TestLists:
    def test_records(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"image": "a.png", "text": "x"}\n\n{"image": "b.png", "text": "y"}\n')
        found = read_jsonl(path, ["image", "text"])
        assert [record["text"] for _, record in found] == ["x", "y"]
        assert [number for number, _ in found] == [1, 3]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "no records"),
            ("{broken", "line 1, is not JSON"),
            ("[1]", "line 1, must be a JSON object"),
            ('{"image": "a", "answer": 1}\n{"image": "b"}', "line 2, has no 'answer'"),
        ],
    )
    def test_records_that_are_none(self, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            read_jsonl(path, ["answer"])

    @pytest.mark.parametrize(
        ("name", "content", "classes"),
        [
            ("a.txt", "cat\ndog\n", {"cat": "cat", "dog": "dog"}),
            ("a.txt", "n01\ttabby cat\nn02\tpug\n", {"n01": "tabby cat", "n02": "pug"}),
            ("a.json", json.dumps(["cat", "dog"]), {"cat": "cat", "dog": "dog"}),
            ("a.json", json.dumps({"n01": "tabby cat"}), {"n01": "tabby cat"}),
        ],
    )
    def test_classes(self, tmp_path: Path, name: str, content: str, classes: Any) -> None:
        (tmp_path / name).write_text(content)
        assert read_classes(tmp_path / name) == classes

    @pytest.mark.parametrize(("content", "told"), [("", "empty"), ("a\na\n", "names 'a' twice")])
    def test_classes_that_are_none(self, tmp_path: Path, content: str, told: str) -> None:
        (tmp_path / "a.txt").write_text(content)
        with pytest.raises(DataError, match=told):
            read_classes(tmp_path / "a.txt")

    def test_templates(self, tmp_path: Path) -> None:
        path = tmp_path / "t.txt"
        path.write_text("a photo of a {}\nart of {}.\n")
        assert read_templates(path) == ["a photo of a {}", "art of {}."]
        path.write_text("a photo\n")
        with pytest.raises(DataError, match=r"must hold \{\} once"):
            read_templates(path)


def test_two_ways_to_write_one_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert same_source(str(tmp_path / "a"), str(tmp_path / "." / "a"))
    assert not same_source(str(tmp_path / "a"), str(tmp_path))
    assert same_source("name", "name") and not same_source("name", "other")
