"""How the next token is chosen, for each row by its own request's wishes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wishes:
    """What a request says about the choice of tokens.

    Args:
        temperature: Scores are divided by it; 0 takes the best token.
        top_p: Tokens are drawn among the fewest whose probabilities make up this share.
        seed: What is drawn is the same for the same seed; None: it differs.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def generator(self) -> torch.Generator | None:
        """Where the draws of one row come from; None: there are none."""
        if self.temperature == 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def choose(logits: Tensor, wishes: list[tuple[Wishes, torch.Generator | None]]) -> list[int | None]:
    """The next token of each row; None for a row whose scores are no numbers.

    Args:
        logits: (rows, vocabulary).
        wishes: Of each row, with the generator of its draws.
    """
    best, usable = logits.argmax(dim=-1).tolist(), logits.amax(dim=-1).isfinite().tolist()
    return [
        None if not usable[row] else best[row] if generator is None else _drawn(logits[row], wish, generator)
        for row, (wish, generator) in enumerate(wishes)
    ]


def _drawn(logits: Tensor, wish: Wishes, generator: torch.Generator) -> int:
    """A token by chance, on the CPU: there the same seed gives the same draws on every machine."""
    scores = logits.double().cpu()
    shares = torch.softmax((scores - scores.max()) / wish.temperature, dim=-1)  # finite at the least temperature
    if wish.top_p < 1:
        ordered, places = shares.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= wish.top_p] = 0
        shares = torch.zeros_like(shares).scatter_(0, places, ordered)
    return int(torch.multinomial(shares, 1, generator=generator))
