"""Laws of a head's start: without any input it answers the labels' mean, or their shares."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from propulsion import PropulsionConfig, start_head
from propulsion.errors import HeadError
from propulsion.head_start import first_answer, output_layer
from tests.tiny_models import SPECS, tiny_inputs, tiny_model

CLASSES = [0] * 6 + [1] * 3 + [2]
WITH_HEAD = sorted(name for name, spec in SPECS.items() if "cls" in spec.heads)


def batch_of(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tiny_inputs(name, "cls").items() if key != "labels"}


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_started_head_answers_the_shares_of_its_labels(name: str) -> None:
    model = tiny_model(name, "cls").eval()
    batch = batch_of(name)
    start_head(model, CLASSES, [batch])
    with torch.no_grad():
        mean = model(**batch).logits.mean(0)
    torch.testing.assert_close(mean.softmax(-1), torch.tensor([0.6, 0.3, 0.1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", [PropulsionConfig, LoraConfig])
@pytest.mark.parametrize(
    ("name", "target"), [("roberta", "query"), ("distilbert", "q_lin"), ("llama", "q_proj"), ("bart", "q_proj")]
)
def test_the_head_that_an_adapter_trains_is_started_wrapped_or_not(name: str, target: str, wrap: type) -> None:
    layers, heads = [], {"bart": ["classification_head"]}.get(name)  # which PEFT alone does not know for a head
    for before in (True, False):
        torch.manual_seed(0)
        base = tiny_model(name, "cls")
        if before:
            start_head(base, CLASSES, [batch_of(name)])
        model = get_peft_model(base, wrap(task_type="SEQ_CLS", target_modules=[target], modules_to_save=heads))
        if not before:
            kept = [p.clone() for n, p in model.named_parameters() if "original_module" in n]
            start_head(model, CLASSES, [batch_of(name)])
            after = [p for n, p in model.named_parameters() if "original_module" in n]
            assert all(torch.equal(one, other) for one, other in zip(kept, after, strict=True))
        layers.append(output_layer(model))
    assert layers[0].weight.requires_grad
    torch.testing.assert_close(layers[0].weight, layers[1].weight)
    if layers[0].bias is not None:
        torch.testing.assert_close(layers[0].bias, layers[1].bias)


@pytest.mark.parametrize(
    ("problem", "size", "labels", "answer"),
    [
        ("regression", 1, [1.0, 2.0, 5.1], [2.7]),
        (None, 1, [1, 2, 6], [3.0]),
        ("regression", 2, [[0, 1], [2, 3]], [1.0, 2.0]),
        ("single_label_classification", 2, [0, 0, 0, 1], [0.75, 0.25]),
        (None, 2, torch.tensor([0, 0, 0, 1]), [0.75, 0.25]),
        (None, 3, [[-100, 0, 0, -100], [0, 1], [-100, 2, 0, 0, 0, 0]], [7 / 9, 1 / 9, 1 / 9]),
        (None, 2, [False, False, False, True], [0.75, 0.25]),
        (None, 2, [1, 1], [0.25, 1.0]),  # half a row of a class that there is none of
        ("multi_label_classification", 2, [[1, 0], [1, 1], [0, 0], [1, 1]], [0.75, 0.5]),
    ],
)
def test_the_first_answer_is_the_mean_or_the_shares(
    problem: str | None, size: int, labels: object, answer: list[float]
) -> None:
    config = tiny_model("roberta", "cls").config
    config.num_labels, config.problem_type = size, problem
    first = first_answer(labels, config)  # type: ignore[arg-type]
    if problem == "multi_label_classification":
        first = first.sigmoid()
    elif size > 1 and problem != "regression":
        first = first.exp()
    torch.testing.assert_close(first, torch.tensor(answer))


def test_a_loss_at_the_start_is_the_entropy_of_the_labels() -> None:
    model = tiny_model("roberta", "cls").eval()
    labels = torch.tensor(CLASSES)
    ids = torch.randint(3, 90, (len(CLASSES), 6))
    start_head(model, CLASSES)
    nn.init.zeros_(output_layer(model).weight)
    entropy = torch.distributions.Categorical(torch.tensor([0.6, 0.3, 0.1])).entropy()
    with torch.no_grad():
        assert abs(model(input_ids=ids, labels=labels).loss - entropy) < 1e-5


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([], "no labels"),
        ([0, 3], "from 0 to 2"),
        ([0, -1], "from 0 to 2"),
        ([0.5], "from 0 to 2"),
        ([[-100]], "0 to 2"),
        (["0", "1"], "0 to 2"),
        ([0, None], "0 to 2"),
    ],
)
def test_labels_that_a_head_cannot_have_are_refused(labels: list[object], says: str) -> None:
    model = tiny_model("roberta", "cls")
    before = output_layer(model).bias.clone()
    with pytest.raises(HeadError, match=says):
        start_head(model, labels)
    assert torch.equal(output_layer(model).bias, before)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), None, "high"])
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_numbers_that_are_none_are_refused(problem: str, label: object) -> None:
    model = tiny_model("roberta", "cls", num_labels=1, problem_type=problem)
    before = output_layer(model).bias.clone()
    with pytest.raises(HeadError, match="number"):
        start_head(model, [0.0, label])
    assert torch.equal(output_layer(model).bias, before)


def test_the_output_layer_of_the_active_adapter_is_started_wherever_it_is_wrapped() -> None:
    config = PropulsionConfig(target_modules=["query"], modules_to_save=["out_proj"])
    model = get_peft_model(tiny_model("roberta", "cls"), config)
    model.add_adapter("other", config)
    start_head(model, CLASSES)
    wrapper = model.get_base_model().classifier.out_proj
    assert output_layer(model) is wrapper.modules_to_save["default"]
    model.set_adapter("other")
    assert output_layer(model) is wrapper.modules_to_save["other"]


def test_what_cannot_be_started_is_refused() -> None:
    with pytest.raises(HeadError, match="no head"):
        start_head(tiny_model("gpt2", "lm"), CLASSES)
    with pytest.raises(HeadError, match="pass a few batches"):
        start_head(tiny_model("llama", "cls"), CLASSES)
    model = tiny_model("roberta", "cls").to("meta")
    with pytest.raises(HeadError, match="offloaded"):
        start_head(model, CLASSES)
    model = tiny_model("roberta", "cls")
    layer = output_layer(model)
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(HeadError, match="quantized"):
        start_head(model, CLASSES)


def test_starting_leaves_the_mode_of_the_model_and_its_hooks() -> None:
    model = tiny_model("llama", "cls").train()
    start_head(model, CLASSES, [batch_of("llama")])
    assert model.training
    assert not output_layer(model)._forward_hooks
