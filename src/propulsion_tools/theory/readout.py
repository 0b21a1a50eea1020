"""Which numbers of a model's output are differentiated: the φ of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from propulsion_tools.errors import OptionError, check_name
from propulsion_tools.theory.gradients import Readout, Row

READOUTS = {
    "difference": "the last logit minus the first",
    "sum": "the sum of the logits",
    "classes": "every logit by itself",
    "loss": "the loss, of any task",
}


def check_readout(name: str | None) -> None:
    """Refuse a name that is none.

    Raises:
        UnknownNameError: There is no such readout; names the near misses.
    """
    if name is not None:
        check_name("output", name, READOUTS)


def default_readout(num_labels: int | None) -> str:
    """The scalar that says most about a task.

    Args:
        num_labels: Logits of a classifier; None if the model gives no single row of logits.
    """
    if num_labels is None:
        return "loss"
    return {1: "sum", 2: "difference"}.get(num_labels, "classes")


def make_readout(name: str, num_labels: int | None) -> Readout:
    """What to differentiate.

    Args:
        name: One of `READOUTS`.
        num_labels: Logits of a classifier; None if the model gives no single row of logits.

    Returns:
        A function of a model and one sample. It gives C values: the number of labels for "classes", else one.

    Raises:
        UnknownNameError: There is no such readout.
        OptionError: It needs a classifier.
    """
    check_readout(name)
    if name == "loss":
        return _loss
    if num_labels is None:
        raise OptionError(f"The output {name!r} needs a classifier, or a regression: choose loss.")
    if name == "difference" and num_labels < 2:
        raise OptionError("The output 'difference' needs two labels: choose sum.")
    mixing = torch.eye(num_labels)
    if name == "difference":
        mixing = mixing[:, -1:] - mixing[:, :1]
    if name == "sum":
        mixing = torch.ones(num_labels, 1)
    return _Logits(mixing)


class _Logits:
    """The logits of a classifier times a matrix of shape (num_labels, C)."""

    def __init__(self, mixing: Tensor) -> None:
        self.mixing = mixing

    def __call__(self, model: nn.Module, row: Row) -> Tensor:
        logits: Tensor = model(**{name: values for name, values in row.items() if name != "labels"}).logits
        return logits.flatten() @ self.mixing.to(logits)


def _loss(model: nn.Module, row: Row) -> Tensor:
    loss: Tensor = model(**row).loss
    return loss.reshape(1)
