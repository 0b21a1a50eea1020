"""What a classifier should answer before it has read anything: where its fresh head starts, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from propulsion.head_start import first_answer, start_head
from propulsion_tools.tasks.base import forward_arguments
from propulsion_tools.tasks.model_kinds import SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER
from propulsion_tools.training.build import Job

ROWS = 16
"""How many training rows are read to start a head without a bias."""


def start_fresh_head(job: Job, device: torch.device) -> None:
    """Let a fresh classifier begin at its labels' mean or shares, where the spec wants it.

    Args:
        job: With a training split; its model is on the device.
        device: Where the rows go.
    """
    if job.spec.head_start == "labels" and job.fresh_heads and job.kind in (SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER):
        with job.autocast(device):  # the head is float32, whatever the network is
            start_head(job.model, job.encoded["train"]["labels"], _batches(job, device))


def loss_of_guessing(job: Job) -> float | None:
    """The loss of a classifier that answers the training labels' shares, or their mean, whatever it reads.

    None: there is no such answer, as for a language model, or no training split.
    """
    if job.kind not in (SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER) or "train" not in job.encoded:
        return None
    labels = job.encoded["train"]["labels"]
    answer = first_answer(labels, job.model.config)
    if job.model.config.problem_type == "regression":
        return float((torch.tensor(labels, dtype=torch.float32) - answer).square().mean())
    return float(-(answer.exp() * answer).sum())


def _batches(job: Job, device: torch.device) -> Iterator[dict[str, Any]]:
    """A few training rows from all over the split, in batches of one so that no padding is read."""
    rows = job.encoded["train"]
    collate = job.task.collator(job.setup)
    for index in np.unique(np.linspace(0, len(rows) - 1, num=ROWS).astype(int)):
        batch = forward_arguments(collate([rows[int(index)]]))
        yield {name: value.to(device) for name, value in batch.items()}
