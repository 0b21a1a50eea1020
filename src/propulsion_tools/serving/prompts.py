"""Prompts and chats as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from propulsion_tools.serving.errors import ApiError
from propulsion_tools.tasks.prompts import FRAME

Prompt = str | list[int] | list[dict[str, str]]
"""A text, token ids, or the messages of a chat."""


def prompt_ids(prompt: Prompt, tokenizer: Any, vocabulary: int) -> list[int]:
    """A prompt's tokens; ids that are given are taken as they are, and a chat ends where its answer begins.

    Args:
        prompt: Not empty.
        tokenizer: The adapter's.
        vocabulary: How many tokens the model knows.

    Raises:
        ApiError: There are none, one is unknown, or the adapter takes no such chat (422).
    """
    if isinstance(prompt, str):
        return _text_ids(prompt, tokenizer)
    given = [token for token in prompt if isinstance(token, int)]
    if not given:
        return _chat_ids([message for message in prompt if isinstance(message, dict)], tokenizer)
    if max(given) >= vocabulary:
        raise ApiError(f"The prompt has the token {max(given)}, and the model has {vocabulary}.", 422, "bad_input")
    return given


def _text_ids(text: str, tokenizer: Any) -> list[int]:
    ids = list(tokenizer(text).input_ids)
    while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        ids.pop()  # some tokenizers end every text, and the answer follows here
    if not ids:
        ids = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    if not ids:
        raise ApiError("The prompt has no tokens: write something in it.", 422, "bad_input")
    return ids


def _chat_ids(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> list[int]:
    """By the tokenizer's chat template; without one, a single instruction stands in the frame of `propulsion train`."""
    if tokenizer.chat_template is None:
        if len(messages) != 1 or messages[0]["role"] != "user":
            raise ApiError(
                "The adapter's tokenizer has no chat template: send one message of the role user, or use "
                "/v1/completions.",
                422,
                "no_chat_template",
            )
        return _text_ids(FRAME.format(messages[0]["content"]), tokenizer)
    try:
        rendered = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError, LookupError) as error:
        raise ApiError("The adapter's chat template does not take these messages.", 422, "bad_messages") from error
    ids = list(tokenizer(rendered, add_special_tokens=False).input_ids)
    if not ids:
        raise ApiError("The messages have no tokens: write something in them.", 422, "bad_input")
    return ids
