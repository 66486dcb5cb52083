"""The prompt of a question, and the tokens of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atp_core.data import read_templates
from atp_core.errors import DataError
from atp_core.loading import first_line
from atp_core.records import DataRequest, LoadedModel

from ._load import processor_of
from ._questions import Question

__all__ = ["Prompts", "answer_ids"]


class Prompts:
    """How the prompt of a question is written.

    In this order: the record's own ``prompt``; the first line of the file given with
    ``--templates``, in which ``{}`` is the question and ``\\n`` a line break; the processor's
    chat template; ``USER: <image>\\n… ASSISTANT:`` with the model's image token, as LLaVA-1.5
    was trained with.

    Raises:
        DataError: the template file is unfit, or its first line has no image token.
        ModelError: the model has no processor.
    """

    def __init__(self, loaded: LoadedModel, data: DataRequest) -> None:
        self._processor = processor_of(loaded)
        self._tokens = _image_tokens(self._processor)
        self.convention = "chat template of the processor"
        self._source = loaded.source.text
        self._template: str | None = None
        self._usual: str | None = None
        if data.templates is not None:
            line = read_templates(data.templates)[0]
            self._check(line, f"template {line!r} in {data.templates}")
            self._template = line.replace("\\n", "\n")
            self.convention = f"prompt {line!r}"
        elif not getattr(self._processor, "chat_template", None):
            self._usual = f"USER: {self._tokens[0]}\n{{}} ASSISTANT:"
            self.convention = f"prompt {self._usual!r}"

    def of(self, question: Question) -> str:
        """The prompt, up to where the answer begins.

        Raises:
            DataError: the record's own prompt has no image token, the chat template fails, or the
            tokenizer does not know the words of the usual prompt.
        """
        if question.prompt is not None:
            self._check(question.prompt, f"the prompt of {question.where}")
            return question.prompt
        if self._template is not None:
            return self._template.replace("{}", question.question)
        if self._usual is not None:
            self._check_vocabulary()
            return self._usual.replace("{}", question.question)
        content: list[dict[str, str]] = [{"type": "image"}]
        if question.question:
            content.append({"type": "text", "text": question.question})
        try:
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        except Exception as error:
            # Whatever a template of the model's raises, the remedy is the same.
            reason = first_line(error)
            raise DataError(
                f"the chat template of the model cannot write the prompt of {question.where} "
                f"({reason}); give a prompt with --templates FILE"
            ) from error
        self._check(text, f"what the chat template of the model makes of {question.where}")
        return str(text)

    def described(self, questions: Sequence[Question]) -> str:
        """How the prompts of `questions` are written, for the user."""
        own = sum(question.prompt is not None for question in questions)
        if own == len(questions):
            return "prompts of the records"
        return f"{self.convention}, or the record's own" if own else self.convention

    def _check(self, prompt: str, what: str) -> None:
        if not any(token in prompt for token in self._tokens):
            raise DataError(f"{what} has no image token; put {self._tokens[0]} where the image is")

    def _check_vocabulary(self) -> None:
        """The usual prompt is for models that know its words."""
        tokenizer = self._processor.tokenizer
        unknown = tokenizer.unk_token_id
        words = "USER: ASSISTANT:"
        if unknown is not None and unknown in tokenizer(words, add_special_tokens=False).input_ids:
            raise DataError(
                f"{self._source} has no chat template, and its tokenizer does not know the "
                f"words of the usual prompt ({words!r}); give the prompt it was trained with, {{}} "
                "in place of the question, with --templates FILE"
            )


def _image_tokens(processor: Any) -> list[str]:
    """What stands for an image in a prompt, the usual one first."""
    found = [
        str(token)
        for holder in (processor, processor.tokenizer)
        for name in ("boi_token", "image_token")
        if (token := getattr(holder, name, None))
    ]
    return found or ["<image>"]


def answer_ids(tokenizer: Any, prompt: str, prompt_ids: list[int], answer: str) -> list[int]:
    """Tokens of `answer` as they follow the prompt: with a space, unless it ends in one.

    Args:
        tokenizer: the model's.
        prompt: the prompt's text.
        prompt_ids: its tokens as the processor made them; it may have added some at the end.
        answer: the words.

    Raises:
        DataError: the answer has no tokens.
    """
    answer = answer.strip()
    tail = tokenizer.decode(prompt_ids[-1:])
    if tail[-1:].isspace() and not prompt[-1:].isspace():
        prompt = tail  # such as the line break that PaliGemma's processor puts after a prompt
    text = prompt + answer if prompt[-1:].isspace() else f"{prompt} {answer}"
    head = tokenizer(prompt, add_special_tokens=False).input_ids
    found = list(tokenizer(text, add_special_tokens=False).input_ids[len(head) :])
    if not found:
        found = list(tokenizer(answer, add_special_tokens=False).input_ids)
    if not found:
        raise DataError(f"the answer {answer!r} has no tokens in this model's vocabulary")
    return found
