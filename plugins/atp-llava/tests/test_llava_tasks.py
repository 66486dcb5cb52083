"""Tasks of lm-eval on a vision-language model in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from _llava_tiny import tiny, write_questions

import atp_core
from atp_core.errors import DataError

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

# A task with images, as an author of one would write it.
YAML = """
task: pictures
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
  cache_dir: {cache}
test_split: test
output_type: generate_until
doc_to_image: !function images.doc_to_image
doc_to_text: "<image> {{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["."], max_gen_toks: 4, do_sample: false}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""
FUNCTION = """
from PIL import Image
def doc_to_image(doc):
    return [Image.open(doc["path"]).convert("RGB")]
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with the definition of a task of 6 questions about images."""
    questions = write_questions(tmp_path / "data", 2)
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    for line in lines:
        line["path"] = str(tmp_path / "data" / line.pop("image"))
    file = tmp_path / "pictures.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "pictures.yaml").write_text(YAML.format(file=file, cache=tmp_path / "cache"))
    (folder / "images.py").write_text(FUNCTION)
    return folder


def test_a_task_with_images(pictures: Path) -> None:
    """What is scored is what the model itself says to the same prompts."""
    model, processor = tiny()
    found = atp_core.evaluate(
        model, processor=processor, tasks="pictures", include_path=str(pictures)
    )
    metric = found.metrics["pictures/exact_match"]
    assert metric.n == 6
    assert found.tasks["pictures"]["version"] == 1.0
    right = 0
    from PIL import Image

    for line in (pictures.parent / "pictures.jsonl").read_text().splitlines():
        doc = json.loads(line)
        inputs = processor(
            images=[Image.open(doc["path"]).convert("RGB")],
            text=f"<image> {doc['question']}",
            return_tensors="pt",
        )
        with torch.inference_mode():
            told = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said = processor.tokenizer.decode(
            told[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        right += said.split(".")[0].strip() == doc["answer"]
    assert metric.value == pytest.approx(right / 6)


def test_a_folder_of_definitions_that_is_not_there(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        model, processor = tiny()
        atp_core.evaluate(
            model, processor=processor, tasks="pictures", include_path=str(tmp_path / "none")
        )
