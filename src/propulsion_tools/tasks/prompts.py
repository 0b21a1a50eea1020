"""Prompts and targets as token ids, cut to fit, for decoders and encoder-decoders."""

from __future__ import annotations

from dataclasses import dataclass, field

from propulsion_tools.tasks.base import Setup
from propulsion_tools.tasks.padding import NOT_SCORED

FRAME = "Instruction:\n{}\n\nResponse:\n"
"""Around an instruction, for decoders whose tokenizer has no chat template."""
LEAST = 8  # tokens of a text that a cut leaves, or there is nothing to answer for

Tokens = dict[str, list[int]]


@dataclass
class Cutter:
    """Makes token ids of texts and targets, and counts what did not fit.

    Args:
        setup: Tokenizer, configuration and lengths.
        instruction: The prompt of a decoder, with ``{text}`` in it; an encoder-decoder reads the text alone.
        framed: Whether the instruction stands in a frame: the tokenizer's chat template, or else `FRAME`.
        ends: Whether a target ends the text.

    Attributes:
        cut: Hashes of the texts that were cut.
        left_out: Rows that the caller left out because they do not fit.
    """

    setup: Setup
    instruction: str
    framed: bool = True
    ends: bool = True
    cut: set[int] = field(default_factory=set, init=False)
    left_out: int = field(default=0, init=False)

    def notes(self, rows: int) -> tuple[str, ...]:
        """What was cut and left out, for the user."""
        length = self.setup.lengths.max_length
        what = ((self.left_out, "are left out"), (len(self.cut), "are cut"))
        return tuple(
            f"{count} of {rows} rows are longer than {length} tokens and {done}; --max_length is the limit."
            for count, done in what
            if count
        )

    def fits(self, text: str, target: str) -> bool:
        """Whether a text and its target are within ``max_length``; an encoder-decoder reads the text alone."""
        ids = self._prompt_ids(text)
        return len(ids) + (0 if self._encoder_decoder else len(self._target_ids(target))) <= self._longest

    def prompt(self, text: str) -> Tokens:
        """The prompt alone, cut to ``max_length``."""
        return self._read(self._fit(text, self._longest))

    def example(self, text: str, target: str) -> Tokens:
        """Prompt, target and ``labels``, which pass over the prompt of a decoder."""
        wanted = self._target_ids(target)
        if self._encoder_decoder:
            return {**self._read(self._fit(text, self._longest)), "labels": wanted}
        wanted = wanted[: max(1, self._longest - LEAST)]
        prompt = self._fit(text, self._longest - len(wanted))
        return {**self._read(prompt + wanted), "labels": [NOT_SCORED] * len(prompt) + wanted}

    def windows(self, text: str) -> list[Tokens]:
        """A decoder's text and its end in windows of ``max_length``, all of them labelled."""
        ids = self._prompt_ids(text) + self._target_ids("")
        starts = range(0, max(1, len(ids) - 1), self._longest)  # one token alone predicts nothing
        parts = (ids[start : start + self._longest] for start in starts)
        return [{**self._read(part), "labels": list(part)} for part in parts]

    def _read(self, ids: list[int]) -> Tokens:
        """What the model reads; a decoder's positions are given, for its rows are padded on the left."""
        read = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        return read if self._encoder_decoder else {**read, "position_ids": list(range(len(ids)))}

    @property
    def _encoder_decoder(self) -> bool:
        return bool(self.setup.config.is_encoder_decoder)

    @property
    def _longest(self) -> int:
        return self.setup.lengths.max_length

    def _prompt_ids(self, text: str) -> list[int]:
        tokenizer = self.setup.tokenizer
        if self._encoder_decoder:
            return list(tokenizer(text).input_ids)
        prompt = self.instruction.replace("{text}", text)
        if self.framed and tokenizer.chat_template is not None:
            turn = [{"role": "user", "content": prompt}]
            rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            return list(tokenizer(rendered, add_special_tokens=False).input_ids)
        ids = list(tokenizer(FRAME.format(prompt) if self.framed else prompt).input_ids)
        while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            ids.pop()  # some tokenizers end every text, and the target follows here
        return ids

    def _target_ids(self, target: str) -> list[int]:
        tokenizer = self.setup.tokenizer
        if self._encoder_decoder:
            longest = self.setup.lengths.max_target_length
            return list(tokenizer(text_target=target, truncation=True, max_length=longest).input_ids)
        end = [tokenizer.eos_token_id] if self.ends and tokenizer.eos_token_id is not None else []
        return list(tokenizer(target, add_special_tokens=False).input_ids) + end

    def _fit(self, text: str, room: int) -> list[int]:
        """The prompt's ids, with the end of the text cut off until they fit; what stands around it stays."""
        ids = self._prompt_ids(text)
        if len(ids) <= room:
            return ids
        self.cut.add(hash(text))
        tokenizer = self.setup.tokenizer
        pieces = tokenizer(text, add_special_tokens=False).input_ids
        while len(ids) > room and pieces:
            pieces = pieces[: len(pieces) - max(1, len(ids) - room)]
            ids = self._prompt_ids(tokenizer.decode(pieces, skip_special_tokens=True))
        return ids[-room:] if room > 0 else []
