"""How a prompt and a joke become tokens. One format per student, written into its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    eos_token_id: int

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids."""
        ...


COMPACT = "compact"
CHAT = "chat"
FORMATS = (COMPACT, CHAT)

CHAT_REQUEST = (
    "Rewrite the sentence as one short funny line that keeps what happened. "
    "Answer with the line only.\n\n{prompt}"
)


@dataclass(frozen=True)
class Format:
    """Turns text into token ids and back.

    `compact` is ``Literal: {prompt}``, a line break, ``Funny: {joke}`` and the end of text, for
    students that learned it by imitation; `chat` is the model's own chat template, for instruct
    models.
    """

    kind: str
    tokenizer: Any
    eos: int
    """Ends a joke; a student's manifest may name another token than the tokenizer's."""
    pad: int
    """A token of its own, never the end token: else a student never learns to stop."""

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise ValueError(f"format is {self.kind!r}, allowed are {', '.join(FORMATS)}")
        if self.pad == self.eos:
            raise ValueError(f"pad and end of text are both token {self.eos}")

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids that the joke's tokens follow."""
        line = clean(prompt)
        if self.kind == CHAT:
            request = [{"role": "user", "content": CHAT_REQUEST.replace("{prompt}", line)}]
            text = self.tokenizer.apply_chat_template(
                request, tokenize=False, add_generation_prompt=True
            )
        else:
            text = f"Literal: {line}\nFunny:"
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_joke(self, joke: str) -> list[int]:
        """Token ids of the joke with its end token; the end token alone for an empty joke."""
        lead = " " if self.kind == COMPACT else ""
        text = clean(joke)
        ids = self.tokenizer.encode(lead + text, add_special_tokens=False) if text else []
        return [*ids, self.eos]

    def decode_joke(self, ids: Sequence[int]) -> str:
        """The joke's text up to its end token, without outer spaces."""
        body = list(ids)
        if self.eos in body:
            body = body[: body.index(self.eos)]
        return str(self.tokenizer.decode(body, skip_special_tokens=True)).strip()


def clean(text: str) -> str:
    """Replace lone surrogates, which tokenizers refuse, and drop outer spaces."""
    return text.encode("utf-8", errors="replace").decode("utf-8").strip()
