"""Laws of the kernel: K = J Jᵀ by brute force, symmetric, positive semi-definite, whatever is batched or kept."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from propulsion import PropulsionConfig
from propulsion_tools.errors import GradientError, NotFiniteError, OptionError, UnknownNameError
from propulsion_tools.theory import gram
from propulsion_tools.theory.gradients import Readout, Row, groups, split_rows
from propulsion_tools.theory.readout import make_readout
from propulsion_tools.theory.tangent_kernel import empirical_ntk, jacobian
from tests.tiny_models import LABELS, tiny_inputs, tiny_model

CLASSES = make_readout("classes", LABELS)


def names_of(model: nn.Module, part: str = "") -> list[str]:
    return [name for name, _ in model.named_parameters() if part in name]


def brute_force(model: nn.Module, rows: Sequence[Row], readout: Readout, names: Sequence[str]) -> Tensor:
    """J as autograd gives it, (n, C, P), one backward for each of its rows."""
    parameters = [p for name, p in model.named_parameters() if name in names]
    for parameter in parameters:
        parameter.requires_grad_()
    found = []
    for row in rows:
        for value in readout(model, row):
            grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(grads, parameters, strict=True)
            found.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    return torch.stack(found).view(len(rows), -1, len(found[0]))


def kernel_of(jacobian: Tensor) -> Tensor:
    flat = jacobian.flatten(0, 1)
    return (flat @ flat.T).view(*jacobian.shape[:2], *jacobian.shape[:2])


def close(kernel: Tensor, expected: Tensor) -> bool:
    return bool((kernel - expected).abs().max() <= 1e-8 * expected.abs().max())


def steered(name: str, head: str = "cls", **fields: object) -> nn.Module:
    model = get_peft_model(tiny_model(name, head).double(), PropulsionConfig(target_modules="all", **fields))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "propulsion_delta" in parameter_name:
                parameter.data = torch.randn(parameter.shape, dtype=torch.float64) * 0.05
    return model


MODELS = [
    *((name, "cls") for name in ("roberta", "llama", "bart", "gpt2", "deberta-v3", "mixtral")),
    *((name, "lm") for name in ("bart", "t5", "gpt2", "roberta")),
]


@pytest.mark.parametrize(
    ("name", "head", "memory"), [*((*model, 1 << 30) for model in MODELS), *((*model, 1) for model in MODELS[:3])]
)
def test_the_kernel_of_all_weights_is_that_of_brute_force(name: str, head: str, memory: int) -> None:
    model = tiny_model(name, head).double()
    rows = split_rows([tiny_inputs(name, head, batch=4)])
    readout = CLASSES if head == "cls" else make_readout("loss", None)
    names = names_of(model)
    expected = kernel_of(brute_force(model, rows, readout, names))
    kernel = empirical_ntk(model, rows, readout, {"all": names}, memory)["all"]
    assert close(kernel, expected)
    flat = kernel.reshape(len(rows) * kernel.shape[1], -1)
    assert torch.equal(flat, flat.T)
    assert torch.linalg.eigvalsh(flat).min() > -1e-8 * flat.abs().max()


@pytest.mark.parametrize("name", ["roberta", "llama", "bart", "mixtral"])
@pytest.mark.parametrize("fields", [{"degree": 15}, {"num_vectors": 2, "pooling": "max", "degree": [3, 5]}])
def test_the_kernel_of_delta_is_that_of_brute_force(name: str, fields: dict[str, object]) -> None:
    model = steered(name, **fields)
    rows = split_rows([tiny_inputs(name, batch=4)])
    names = names_of(model, "propulsion_delta")
    matrix = brute_force(model, rows, CLASSES, names)
    kernel = empirical_ntk(model, rows, CLASSES, {"delta": names})["delta"]
    assert close(kernel, kernel_of(matrix))
    torch.testing.assert_close(jacobian(model, rows, CLASSES, names), matrix, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["roberta", "llama", "bart"])
def test_the_kernel_does_not_depend_on_how_samples_are_batched(name: str) -> None:
    model = tiny_model(name).double()
    whole = {key: values for key, values in tiny_inputs(name, batch=6, length=9).items() if key != "labels"}
    lengths = whole["attention_mask"].sum(1)
    names, kernels = names_of(model), []
    for size in (1, 2, 6):
        batches = []
        for start in range(0, 6, size):
            longest = int(lengths[start : start + size].max())
            batches.append({key: values[start : start + size, :longest] for key, values in whole.items()})
        kernels.append(empirical_ntk(model, split_rows(batches), CLASSES, {"all": names})["all"])
    assert all(close(kernel, kernels[0]) for kernel in kernels)


@pytest.mark.parametrize(("factor", "block"), [(0, 64), (10**9, 1 << 25)])
def test_every_way_to_multiply_gives_the_same(monkeypatch: pytest.MonkeyPatch, factor: int, block: int) -> None:
    """By tokens wherever there is no lookup, and by blocks so small that each has one row or one column."""
    model = tiny_model("gpt2", "lm").double()
    rows = split_rows([tiny_inputs("gpt2", "lm", batch=3)])
    names, readout = names_of(model), make_readout("loss", None)
    expected = empirical_ntk(model, rows, readout, {"all": names})["all"]
    monkeypatch.setattr(gram, "_cost_of_blocks", lambda factors: factor)
    monkeypatch.setattr(gram, "BLOCK", block)
    assert close(empirical_ntk(model, rows, readout, {"all": names})["all"], expected)


class Odd(nn.Module):
    """Uses weights in ways that are not y = W x + b alone."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.table = nn.Embedding(9, 4, padding_idx=1)
        self.first = nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)
        self.last = nn.Linear(4, LABELS)

    def forward(self, input_ids: Tensor) -> Any:
        x = self.table(input_ids)
        y = self.first(x)
        if self.way == "output changed in place":
            y.mul_(2)
        elif self.way == "transposed":
            y = y @ self.first.weight
        elif self.way == "twice":
            y = self.first(y.tanh()) + self.first(x)
        elif self.way == "as its own input":
            y = y + nn.functional.linear(self.first.weight, self.first.weight).sum()
        return SimpleNamespace(logits=self.last(torch.cat([x.tanh(), y], 1).mean(1)))


@pytest.mark.parametrize("way", ["output changed in place", "transposed", "twice", "as its own input"])
def test_odd_uses_of_a_weight_are_exact(way: str) -> None:
    model = Odd(way).double()
    rows = split_rows([{"input_ids": torch.tensor([[1, 2, 3, 3, 5], [2, 1, 8, 0, 0]])}])
    names = names_of(model)
    expected = kernel_of(brute_force(model, rows, CLASSES, names))
    assert close(empirical_ntk(model, rows, CLASSES, {"all": names})["all"], expected)


def test_kernels_of_parts_add_up_and_the_model_is_left_as_it_was() -> None:
    model = tiny_model("roberta").double().train()
    frozen = [name for name, parameter in model.named_parameters() if "bias" in name]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    rows = split_rows([tiny_inputs("roberta")])
    parts = {"head": names_of(model, "classifier"), "body": names_of(model, "roberta.")}
    kernels = empirical_ntk(model, rows, CLASSES, parts)
    whole = empirical_ntk(model, rows, CLASSES, {"all": names_of(model)})["all"]
    assert close(kernels["head"] + kernels["body"], whole)
    assert model.training
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == frozen
    assert all(parameter.grad is None for parameter in model.parameters())


def test_readouts_are_sums_of_the_kernel_of_all_classes() -> None:
    model = tiny_model("roberta").double()
    rows = split_rows([tiny_inputs("roberta")])
    parts = {"all": names_of(model)}
    whole = empirical_ntk(model, rows, CLASSES, parts)["all"]
    summed = empirical_ntk(model, rows, make_readout("sum", LABELS), parts)["all"]
    assert close(summed[:, 0, :, 0], whole.sum((1, 3)))
    mixing = torch.tensor([-1.0, 0, 1]).double()
    difference = empirical_ntk(model, rows, make_readout("difference", LABELS), parts)["all"]
    assert close(difference[:, 0, :, 0], torch.einsum("iajb,a,b->ij", whole, mixing, mixing))


def test_less_memory_means_more_groups() -> None:
    model = tiny_model("roberta")
    rows = split_rows([tiny_inputs("roberta")])
    names = names_of(model)
    few, many = (groups(model, rows, CLASSES, names, memory) for memory in (1 << 30, 1 << 14))
    assert len(few) == 1
    assert len(many) > 4
    for found in (few, many):
        assert sorted(name for group in found for name in group.factored | group.direct) == sorted(names)


def test_bad_input_is_refused() -> None:
    model, rows = tiny_model("roberta"), split_rows([tiny_inputs("roberta")])
    names = names_of(model)
    with pytest.raises(OptionError, match="at least one sample"):
        split_rows([])
    with pytest.raises(OptionError, match="at least one sample"):
        empirical_ntk(model, [], CLASSES, {"all": names})
    with pytest.raises(OptionError, match="two parts"):
        empirical_ntk(model, rows, CLASSES, {"one": names, "two": names[:1]})
    with pytest.raises(GradientError, match="nothing is trained"):
        empirical_ntk(model, rows, CLASSES, {"none": []})
    with pytest.raises(UnknownNameError, match=r"no output 'logit'\. There are difference"):
        make_readout("logit", 2)
    with pytest.raises(OptionError, match="two labels"):
        make_readout("difference", 1)
    with pytest.raises(OptionError, match="classifier"):
        make_readout("classes", None)


def test_an_output_without_a_gradient_is_named() -> None:
    model = steered("roberta", degree=0)
    rows = split_rows([tiny_inputs("roberta")])
    with pytest.raises(GradientError, match="Output 0, 1, 2"):
        empirical_ntk(model, rows, CLASSES, {"delta": names_of(model, "propulsion_delta")})
    base = tiny_model("roberta").double()
    last = [name for name in names_of(base) if name.endswith("out_proj.bias")]
    one = lambda model, row: CLASSES(model, row) * torch.tensor([0.0, 1.0, 1.0])  # noqa: E731
    with pytest.raises(GradientError, match="Output 0 "):
        empirical_ntk(base, rows, one, {"bias": last})


def test_what_is_not_finite_is_named() -> None:
    model = tiny_model("roberta")
    rows = split_rows([tiny_inputs("roberta")])
    with torch.no_grad():
        model.classifier.dense.weight[0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"\w+\.\w+"):
        empirical_ntk(model, rows, CLASSES, {"all": names_of(model)})
    with pytest.raises(NotFiniteError):
        jacobian(model, rows, CLASSES, ["classifier.dense.bias"])
