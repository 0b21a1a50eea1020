"""Mixed batches through `generate`: each row as with its adapter alone."""

from __future__ import annotations

import pytest
import torch

from propulsion import PropulsionConfig
from tests.propulsion.steered import batch, layers, steered_model

NAMES = ["second", "__base__", "default", "second"]
HOW = [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "opt", "bart", "t5", "phi", "mixtral", "gpt_oss"])
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
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])  # no padding on the right of what is continued
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
