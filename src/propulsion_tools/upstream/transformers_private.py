"""Private names of transformers, and places in it that are not documented, that the tools need."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import nested_concat
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

__all__ = ["ExportableState", "OpenTrainer", "nested_concat"]
# ExportableState: a callback whose state travels with the checkpoints has to be one, and it is exported nowhere else.
# conversion_mapping, core_model_loading: what from_pretrained calls the tensors of a checkpoint; not documented.
# nested_concat: puts batches of answers of different lengths together, as Trainer does for those that it scores.


class NamesInModel(NamedTuple):
    """What `from_pretrained` makes of the names in a checkpoint.

    Attributes:
        named: key of the checkpoint → the name of the same tensor in the model's `state_dict()`.
        converted: Keys that transformers computes something of the model from, together with others.
    """

    named: dict[str, str]
    converted: set[str]


def names_in_model(model: PreTrainedModel, keys: Iterable[str]) -> NamesInModel:
    """Where the tensors of a checkpoint go in a model, with or without weights; what goes nowhere is left out."""
    state: dict[str, Any] = dict.fromkeys(model.state_dict(), True)
    transforms, prefix = get_model_conversion_mapping(model), model.base_model_prefix
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    found = NamesInModel({}, set())
    for key in keys:
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state:  # as on loading: the tensor may have its new name already
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name in state and pattern is not None:
            found.converted.add(key)
        elif name in state:
            found.named[key] = name
    return found


class OpenTrainer(Trainer):
    """A `Trainer` whose way of writing and reading weights is overridden under public names.

    It writes and reads checkpoints itself, and offers only private methods to say how.

    Attributes:
        most_checkpoints: How many checkpoints to keep; None: all. `Trainer` is not told: it would remove one while the
            next is not whole yet, and at the end of training the last, which a run that is killed then goes on from.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most_checkpoints, self.args.save_total_limit = self.args.save_total_limit, None
        self._gone_on_from: Path | None = None

    def write_weights(self, folder: Path) -> None:
        """Write what a checkpoint holds beside the state of the training, and what the run leaves at its end."""
        raise NotImplementedError

    def read_weights(self, folder: Path) -> None:
        """Read into the model what `write_weights` wrote: to go on with a run, or to end with its best state."""
        raise NotImplementedError

    def read_run(self, folder: Path) -> None:
        """Read what it wrote about the run so far, to go on with it."""
        raise NotImplementedError

    def reading(self, checkpoint: str | None) -> AbstractContextManager[None]:
        """Where the state of a training is read; torch refuses what it cannot read in many ways."""
        return nullcontext()

    def begin_checkpoint(self, folder: Path) -> None:
        """Make room for a checkpoint, in the first process, before anything of it is written."""

    def end_checkpoint(self, folder: Path) -> None:
        """Do what is left to do, in the first process, when all processes have written their parts of a checkpoint.

        That includes the removal of those that are too many, `most_checkpoints`.
        """

    def take_loss_as_mean(self) -> None:
        """Divide the loss by the number of accumulated batches, whatever the signature of the model's forward says."""
        self.model_accepts_loss_kwargs = False

    def take_up(self, folder: Path) -> None:
        """Be where a run was that wrote its last checkpoint and ended; `train` would do a step beyond the end.

        Args:
            folder: The checkpoint.
        """
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        self._gone_on_from = folder
        self._load_callback_state()
        self._load_from_checkpoint(str(folder))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch as `Trainer` hands it to the model."""
        return self._prepare_inputs(inputs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """In every process, where `Trainer` asks them all: sharded weights are brought together by all of them."""
        self.write_weights(Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            self.begin_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.end_checkpoint(folder)

    def whole_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state as one process would have it; called in every process."""
        raise NotImplementedError

    def sharded_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `whole_optimizer_state`."""
        raise NotImplementedError

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # As from one process, so that the run may go on in any number of them.
        state = self.whole_optimizer_state(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._gone_on_from = Path(resume_from_checkpoint)
        self.read_weights(self._gone_on_from)
        self.read_run(self._gone_on_from)

    def _load_callback_state(self) -> None:
        """Beside it, find the best checkpoint: the state says where it was, and the run may have been moved since."""
        super()._load_callback_state()
        if self._gone_on_from is None or not self.state.best_global_step:
            return
        best = self._gone_on_from.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with self.reading(checkpoint):
            if not self.is_fsdp_enabled or checkpoint is None:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
            self.optimizer.load_state_dict(self.sharded_optimizer_state(state))
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with self.reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        self.read_weights(Path(self.state.best_model_checkpoint))
