"""Which questions, or which text, serve which split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atp_core.data import SHARES, partition, same_source, take
from atp_core.errors import DataError, UsageError
from atp_core.records import DataRequest, LoadedModel, Split

from ._load import DEFAULTS
from ._questions import Question, choices_of, question_file, read_questions
from ._source import DIGITS

__all__ = [
    "Part",
    "check_settings",
    "count_for",
    "file_for",
    "part_for",
    "shares_for",
    "spec_for",
]


@dataclass(frozen=True)
class Part:
    """The questions of one split.

    Attributes:
        questions: in a fixed order.
        choices: for each question, the answers to choose among.
        dataset: what they are, for the user.
        fingerprint: hash of images, questions and answers.
        examples: identities of the images.
    """

    questions: Sequence[Question]
    choices: Sequence[tuple[str, ...]]
    dataset: str
    fingerprint: str
    examples: frozenset[str]


def spec_for(loaded: LoadedModel, data: DataRequest, split: Split) -> str | None:
    """The data that serve `split`: as asked, or those an embedded model comes with."""
    asked = data.report if split == "report" else data.calibration
    if asked is not None or loaded.source.text != f"embedded:{DIGITS}":
        return asked
    from atp_core.digits import folder

    which = "report" if split == "report" else "calibration"
    return str(folder() / f"questions-{which}.jsonl")


def count_for(data: DataRequest, split: Split) -> tuple[int | None, bool]:
    """How many samples a split has, None for all, and whether that was asked for."""
    if split == "report":
        return data.report_samples, False
    asked = data.samples if split == "calibration" else data.search_samples
    key = "samples" if split == "calibration" else "search_samples"
    return asked or DEFAULTS[key], asked is not None


def shares_for(loaded: LoadedModel, data: DataRequest) -> tuple[bool, dict[str, float]]:
    """Whether one source serves calibration and report, and how it is cut."""
    calibration = spec_for(loaded, data, "calibration")
    report = spec_for(loaded, data, "report")
    shared = calibration is not None and report is not None and same_source(calibration, report)
    return shared, dict(SHARES[shared])


def part_for(loaded: LoadedModel, data: DataRequest, split: Split, spec: str, file: Path) -> Part:
    """The questions of one split; read once and kept.

    Calibration and search questions come from one file and share no image. A number of samples
    that was asked for is met exactly; the default takes what the file holds, and says so.

    Raises:
        DataError: the file is unfit, or holds too few images or questions.
    """
    count, asked = count_for(data, split)
    shared, shares = shares_for(loaded, data)
    key = ("atp_llava.part", split, spec, shared, count, data.seed)
    if key not in loaded.cache:
        loaded.cache[key] = _part(loaded, file, split, shared, shares, count, asked, data.seed)
    found: Part = loaded.cache[key]
    return found


def _part(
    loaded: LoadedModel,
    file: Path,
    split: Split,
    shared: bool,
    shares: dict[str, float],
    count: int | None,
    asked: bool,
    seed: int,
) -> Part:
    everything = read_questions(file)
    pairs = list(zip(everything, choices_of(everything), strict=True))
    dataset = file.name
    if shared or split != "report":
        images = {id(one.image): one.image for one in everything}
        held = partition(list(images.values()), shares, lambda image: image.identity)
        for name, part in held.items():
            if not part:
                raise DataError(
                    f"{file} is about {len(images)} images, too few to hold out a {name} part; "
                    "give questions about more images"
                )
        kept = {image.identity for image in held[split]}
        pairs = [pair for pair in pairs if pair[0].identity in kept]
        dataset = f"{file.name}, {split} part"
    if count is not None and len(pairs) < count:
        option = {"calibration": "--samples", "search": "--search-samples"}.get(split)
        if asked:
            raise DataError(
                f"{dataset} has {len(pairs)} questions, and {count} are asked for; give more with "
                f"--calibration, or lower {option}"
            )
        if split != "report":
            loaded.progress.note(f"{dataset} has {len(pairs)} questions, not the usual {count}")
    # A report is of the questions as they are; what chooses something sees all kinds alike.
    evenly = None if split == "report" else lambda pair: pair[0].category
    chosen = take(pairs, count, seed=seed, group=evenly)
    if split == "report" and len(chosen) < len(pairs):
        dataset = f"{dataset}, {len(chosen)} of {len(pairs)} questions"
    text = "\0".join(f"{q.identity}\0{q.question}\0{q.answer}\0{c}" for q, c in chosen)
    return Part(
        questions=[question for question, _ in chosen],
        choices=[choices for _, choices in chosen],
        dataset=dataset,
        fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
        examples=frozenset(question.identity for question, _ in chosen),
    )


def check_settings(loaded: LoadedModel, data: DataRequest) -> None:
    """Refuse settings that none of the data has a use for.

    Raises:
        UsageError: ``--seqlen`` without plain text, or ``--templates`` without questions.
    """
    splits: tuple[Split, ...] = ("calibration", "report")
    specs = [spec_for(loaded, data, split) for split in splits]
    kinds = {file_for(spec) is None for spec in specs if spec is not None}
    if data.seqlen is not None and True not in kinds:
        raise UsageError("--seqlen has no effect on questions about images; leave it out")
    if data.templates is not None and False not in kinds:
        raise UsageError("--templates has no effect on plain text; leave it out")


def file_for(spec: str) -> Path | None:
    """The question file a data argument names; None where it is a plain text."""
    path = Path(spec).expanduser()
    if not path.exists():
        raise DataError(
            f"there is no data {spec!r}; give a .jsonl file of images with questions and answers, "
            "or a plain text file"
        )
    return question_file(spec)
