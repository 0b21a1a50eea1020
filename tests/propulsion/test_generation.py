"""Mixed batches through `generate`: each row as with its adapter alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2LMHeadModel

from propulsion import PropulsionConfig
from propulsion.errors import AdapterNameError
from tests.propulsion.steered import batch, config, layers, steered_model, train_by_chance
from tests.tiny_models import tiny_model

NAMES = ["second", "__base__", "default", "second"]
HOW = [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "bloom", "opt", "bart", "t5", "phi", "whisper", "mixtral", "gpt_oss"]
)
def test_each_row_is_generated_as_with_its_adapter_alone(name: str, how: dict) -> None:
    model = steered_model(name, "lm", degree=2)
    model.add_adapter(
        "second", PropulsionConfig(task_type=model.peft_config["default"].task_type, target_modules="attn")
    )
    with torch.no_grad():
        for layer in layers(model):
            for delta in layer.propulsion_delta.parameters():
                delta.add_(torch.randn_like(delta), alpha=0.3 / 2)
    inputs = {key: value for key, value in batch(name, "lm", batch=4).items() if key != "labels"}
    if "attention_mask" in inputs:
        inputs["attention_mask"].fill_(1)  # no padding on the right of what is continued
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 1, **how}
    each = how.get("num_return_sequences", 1)

    def alone(row: int, adapter: str) -> torch.Tensor:
        arguments = {**{key: value[row : row + 1] for key, value in inputs.items()}, **settings}
        if adapter == "__base__":
            with model.disable_adapter():
                return model.generate(**arguments)
        model.set_adapter(adapter)
        return model.generate(**arguments)

    expected = [alone(row, adapter) for row, adapter in enumerate(NAMES)]
    mixed = model.generate(**inputs, **settings, adapter_names=NAMES)
    for row, sequences in enumerate(expected):
        assert torch.equal(mixed[row * each : (row + 1) * each], sequences)
    rows = [alone(2, adapter) for adapter in ("default", "second", "__base__")]
    assert len({tuple(sequences.flatten().tolist()) for sequences in rows}) > 1  # the test can fail


def listening_model() -> tuple[PeftModel, dict[str, Tensor]]:
    """A Whisper with a second adapter, and two recordings of which one is three times as long as the other."""
    model = steered_model("whisper", "lm", degree=2, task_type="SEQ_2_SEQ_LM")
    model.add_adapter("second", PropulsionConfig(task_type="SEQ_2_SEQ_LM", target_modules="attn"))
    train_by_chance(model, "second", seed=2)
    settings = model.get_base_model().generation_config
    settings.no_timestamps_token_id, settings.max_initial_timestamp_index = 60, 5
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[0, 20:] = 0
    sound = torch.randn(2, 8, 60, generator=torch.Generator().manual_seed(0))
    return model, {"input_features": sound, "attention_mask": mask}


@pytest.mark.parametrize("how", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_recordings_of_which_some_end_before_others_are_refused(how: dict[str, Any]) -> None:
    model, inputs = listening_model()
    settings = {"return_timestamps": True, "max_new_tokens": 6, **how}
    with pytest.raises(AdapterNameError, match="does not say which"):
        model.generate(**inputs, **settings, adapter_names=["second", "default"])
    model.set_adapter("second")
    expected = model.generate(**inputs, **settings)
    model.set_adapter("default")
    same = model.generate(**inputs, **settings, adapter_names=["second", "second"])  # whichever rows go on
    assert torch.equal(same, expected)


class Guided(GPT2LMHeadModel):
    """Runs with all rows and then all rows once more, as MusicGen, Dia and Janus do for their guidance."""

    def generate(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        return self(torch.cat([input_ids, input_ids])).logits


def test_rows_in_an_order_of_the_models_own_are_refused() -> None:
    base = Guided(tiny_model("gpt2", "lm").config)
    model = get_peft_model(base, config(task_type="CAUSAL_LM")).eval()
    ids = batch("gpt2", "lm", batch=2)["input_ids"]
    with pytest.raises(AdapterNameError, match="Guided generates with 4 rows, in an order of its own"):
        model.generate(input_ids=ids, adapter_names=["default", "__base__"])
    assert model.generate(input_ids=ids, adapter_names=["default", "default"]).shape[0] == 4
    model(input_ids=ids, adapter_names=["default", "__base__"])
