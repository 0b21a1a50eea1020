"""Every method of ours computes what its paper says: beside a computation that shares no line with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.linalg import hadamard as hadamard_matrix
from torch import Tensor, nn
from torch.nn import functional

from propulsion_tools.methods.increlora import Grant, Growing, Options
from propulsion_tools.methods.intrinsic_said import hadamard
from propulsion_tools.methods.loraprune import Options as PruneOptions
from propulsion_tools.methods.loraprune import Prune, Pruned
from propulsion_tools.methods.propetl import Masked, TopShare
from propulsion_tools.records import RunSpec
from tests.methods.test_every_method import built, logits, train_steps
from tests.tiny_models import tiny_inputs, tiny_model

SPEC = {"max_length": 8}
LINEAR = "encoder.layer.1.attention.self.query"


def randomized(model: nn.Module, std: float = 0.1) -> nn.Module:
    """Values other than the start's for all that is trained outside the head."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not name.startswith(("classifier", "score")):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


class Seen:
    """Inputs and outputs of modules while the model runs."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        self.inputs: dict[str, Tensor] = {}
        for name in names:
            model.get_submodule(name).register_forward_pre_hook(self.keeper(name))

    def keeper(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.inputs[name] = inputs[0].detach().clone()

        return keep


def plain(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def bottleneck(piece: Any, y: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    return activation(y @ piece.down.T + piece.down_bias) @ piece.up.T + piece.up_bias


@torch.no_grad()
def test_houlsby_adds_after_the_dropout_and_before_the_residual() -> None:
    model = randomized(built("roberta", RunSpec(method="adapter", **SPEC)))
    block = "roberta.encoder.layer.0"
    dropped: dict[str, Tensor] = {}
    for part, residual in (("attention.output", "attention.self.query"), ("output", "intermediate.dense")):
        seen = Seen(model, f"{block}.{part}.LayerNorm", f"{block}.{residual}")
        dropout = model.get_submodule(f"{block}.{part}.dropout").train()
        dropout.p = 0.5
        dropout.register_forward_hook(lambda _, inputs, output: dropped.update(y=output.clone()), prepend=True)
        model(**tiny_inputs("roberta"))
        y, piece = dropped["y"], dropout.adapter.added
        assert bool((y == 0).any())
        wanted = y + bottleneck(piece, y, functional.gelu) + seen.inputs[f"{block}.{residual}"]
        assert torch.allclose(seen.inputs[f"{block}.{part}.LayerNorm"], wanted, atol=1e-5)


@torch.no_grad()
def test_the_parallel_adapter_reads_what_the_feed_forward_part_reads() -> None:
    model = randomized(built("llama", RunSpec(method="parallel-adapter", **SPEC)))
    block = "model.layers.0"
    seen = Seen(model, f"{block}.mlp.gate_proj", f"{block}.mlp.down_proj", f"{block}.post_attention_layernorm")
    seen_next = Seen(model, "model.layers.1.input_layernorm")
    model(**tiny_inputs("llama"))
    down = model.get_submodule(f"{block}.mlp.down_proj")
    added = bottleneck(down.parallel.added, seen.inputs[f"{block}.mlp.gate_proj"], functional.relu)
    wanted = seen.inputs[f"{block}.post_attention_layernorm"] + plain(down, seen.inputs[f"{block}.mlp.down_proj"])
    assert torch.allclose(seen_next.inputs["model.layers.1.input_layernorm"], wanted + 4.0 * added, atol=1e-5)


def test_propetl_keeps_the_largest_scores_and_passes_gradients_straight_through() -> None:
    scores = torch.tensor([[0.1, -5.0, 2.0], [-0.2, 0.3, 4.0]], requires_grad=True)
    mask = TopShare.apply(scores, 0.5)
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1]]
    (mask * torch.arange(6.0).view(2, 3)).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert int((Masked(torch.Size((7, 3)), 0.4)(torch.ones(7, 3)) != 0).sum()) == math.ceil(0.4 * 21)


@torch.no_grad()
def test_propetl_shares_one_adapter_of_which_each_layer_keeps_its_own_part() -> None:
    model = randomized(built("roberta", RunSpec(method="propetl-adapter", **SPEC)))
    shares = [model.get_submodule(f"roberta.encoder.layer.{n}.output.dropout.adapter.added") for n in (0, 1)]
    assert shares[0].shared is shares[1].shared
    for number, piece in enumerate(shares):
        block = f"roberta.encoder.layer.{number}.output"
        seen = Seen(model, f"{block}.dense", f"{block}.LayerNorm", f"roberta.encoder.layer.{number}.intermediate.dense")
        model(**tiny_inputs("roberta"))
        y = plain(model.get_submodule(f"{block}.dense"), seen.inputs[f"{block}.dense"])
        kept = {}
        for name in ("down", "up"):
            size = getattr(piece, name).scores.abs().flatten().sort(descending=True).values
            kept[name] = getattr(piece.shared, name) * (
                getattr(piece, name).scores.abs() >= size[math.ceil(size.numel() / 2) - 1]
            )
        inner = functional.gelu(y @ kept["down"].T + piece.shared.down_bias)
        wanted = y + inner @ kept["up"].T + piece.shared.up_bias
        wanted = wanted + seen.inputs[f"roberta.encoder.layer.{number}.intermediate.dense"]
        assert torch.allclose(seen.inputs[f"{block}.LayerNorm"], wanted, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", ["mam", "propetl-prefix"])
def test_a_prefix_made_of_a_texts_keys_and_values_is_that_text_before(method: str) -> None:
    model = built("llama", RunSpec(method=method, method_args={"num_virtual_tokens": 3}, **SPEC)).eval()
    base = tiny_model("llama")
    rows = tiny_inputs("llama")
    before = rows["input_ids"][:1, :3]  # no padding
    past = base.model(input_ids=before, use_cache=True).past_key_values
    prefix = model.model.prefix
    if method == "mam":
        for number, layer in enumerate(past.layers):
            prefix.states[:, number] = torch.stack((layer.keys[0], layer.values[0]))
    else:  # one prefix cannot be the keys and values of two layers, but its masked parts can be compared
        _, _, heads, length, width = prefix.states.shape
        for number, mask in enumerate(prefix.masks):
            flat = prefix.states[:, 0].transpose(1, 2).reshape(2 * length, heads * width)
            threshold = mask.scores.abs().flatten().sort(descending=True).values[mask.scores.numel() // 2 - 1]
            kept = flat * (mask.scores.abs() >= threshold)
            keys, values = prefix.keys_and_values()[number]
            assert torch.equal(keys, kept[:length].view(length, heads, width).transpose(0, 1))
            assert torch.equal(values, kept[length:].view(length, heads, width).transpose(0, 1))
        return
    joined = {
        "input_ids": torch.cat((before.expand(3, -1), rows["input_ids"]), 1),
        "attention_mask": torch.cat((torch.ones(3, 3, dtype=torch.long), rows["attention_mask"]), 1),
    }
    text = {name: rows[name] for name in ("input_ids", "attention_mask")}
    assert torch.allclose(model(**text).logits, base(**joined).logits, atol=1e-5)


def of_low_rank(piece: Any, scale: float = 2.0) -> Tensor:
    return scale * piece.B @ piece.A


def of_heads(piece: Any) -> Tensor:
    rows = [up.T @ down for up, down in zip(piece.up, piece.down.view(4, 2, -1), strict=True)]
    return 2.0 * (piece.B @ piece.A + torch.cat(rows))


def of_masks(piece: Any) -> Tensor:
    halves = []
    for scores, weight in ((piece.mask_B.scores, piece.shared.B), (piece.mask_A.scores, piece.shared.A)):
        threshold = scores.abs().flatten().sort(descending=True).values[math.ceil(scores.numel() / 2) - 1]
        halves.append(weight * (scores.abs() >= threshold))
    return 2.0 * halves[0] @ halves[1]


UPDATES: dict[str, Callable[[Any], Tensor]] = {
    "dylora": of_low_rank,
    "deltalora": of_low_rank,
    "loraprune": of_low_rank,
    "increlora": lambda piece: 2.0 * piece.B[:, :1] * piece.E[:1] @ piece.A[:1],
    "kernel-mix": of_heads,
    "propetl-lora": of_masks,
}


@torch.no_grad()
@pytest.mark.parametrize("method", UPDATES)
def test_adding_the_update_to_the_weights_gives_the_same_outputs(method: str) -> None:
    model = randomized(built("roberta", RunSpec(method=method, **SPEC)), std=0.3)
    merged = tiny_model("roberta")
    changed = 0
    for name, layer in model.named_modules():
        if hasattr(layer, "low_rank"):
            merged.get_submodule(name).weight.add_(UPDATES[method](layer.low_rank))
            changed += 1
    merged.classifier.load_state_dict(model.classifier.state_dict())
    assert changed == 4
    assert torch.allclose(logits(model, "roberta"), logits(merged, "roberta"), atol=1e-5)
    assert not torch.allclose(logits(model, "roberta"), logits(tiny_model("roberta"), "roberta"), atol=1e-2)


def test_dylora_trains_the_first_b_ranks_and_scales_by_them() -> None:
    model = randomized(built("roberta", RunSpec(method="dylora", **SPEC))).train()
    torch.manual_seed(3)
    b = int(torch.randint(1, 9, ()))
    assert 1 <= b < 8
    torch.manual_seed(3)
    model(**tiny_inputs("roberta")).loss.backward()
    piece = model.get_submodule(f"roberta.{LINEAR}").low_rank
    assert bool((piece.A.grad[:b] != 0).any())
    assert not piece.A.grad[b:].any()
    assert not piece.B.grad[:, b:].any()
    x, y = torch.randn(2, 32), torch.zeros(2, 32)
    assert torch.allclose(piece(x, y), 16.0 / b * x @ piece.A[:b].T @ piece.B[:, :b].T, atol=1e-5)


def test_deltalora_moves_the_weights_by_the_products_moves(tmp_path: Path) -> None:
    spec = RunSpec(method="deltalora", method_args={"start_step": 1, "ratio": 0.5}, **SPEC)
    trained = train_steps("roberta", spec, tmp_path)
    piece = trained.model.get_submodule(f"roberta.{LINEAR}").low_rank
    weight = trained.model.get_submodule(f"roberta.{LINEAR}").weight
    # The moves telescope: the product was 0 at the start.
    start = tiny_model("roberta").get_submodule(f"roberta.{LINEAR}").weight
    assert torch.allclose(weight - start, 0.5 * 2.0 * piece.B @ piece.A, atol=1e-6)
    assert not torch.equal(weight, start)


def test_increlora_grants_the_important_layers_until_the_average_is_r(tmp_path: Path) -> None:
    trained = train_steps("roberta", RunSpec(method="increlora", method_args={"r": 3}, **SPEC), tmp_path)
    ranks = [int(module.granted.sum()) for module in trained.model.modules() if isinstance(module, Growing)]
    assert sum(ranks) == 3 * 4
    assert all(1 <= rank <= 6 for rank in ranks)
    model = built("roberta", RunSpec(method="increlora", method_args={"r": 3}, **SPEC))
    grant = Grant(model, Options(r=3))
    grant.importance = torch.tensor([1.0, 3.0, 2.0, 0.0])
    grant.grant(6)
    assert [int(piece.granted.sum()) for piece in grant.pieces] == [1, 2, 2, 1]


def test_loraprune_prunes_the_groups_with_the_least_importance(tmp_path: Path) -> None:
    spec = RunSpec(method="loraprune", method_args={"sparsity": 0.5}, **SPEC)
    trained = train_steps("roberta", spec, tmp_path)
    masks = [module.mask for module in trained.model.modules() if isinstance(module, Pruned)]
    assert [int((mask == 0).sum()) for mask in masks] == [2, 2, 2, 2]  # of 32 / 8 groups
    model = randomized(built("roberta", spec))
    layer = model.get_submodule(f"roberta.{LINEAR}")
    layer.weight.requires_grad_(True)
    model(**tiny_inputs("roberta")).loss.backward()
    piece, gradient = layer.low_rank, layer.weight.grad  # ∂L/∂B = s G Aᵀ, ∂L/∂A = s Bᵀ G
    up, down = 2.0 * gradient @ piece.A.T, 2.0 * piece.B.T @ gradient
    estimate = (up @ piece.A + piece.B @ down - up @ down) / 2.0
    wanted = (estimate * (layer.weight + 2.0 * piece.B @ piece.A)).square().view(4, 8, 32).sum((1, 2))
    assert torch.allclose(piece.importance(), wanted, rtol=1e-3)
    prune = Prune(model, PruneOptions(sparsity=0.5))
    prune.importance[0] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    prune.prune(0.5)
    assert prune.pieces[0].mask.tolist() == [1, 0, 1, 0]
    x = torch.randn(3, 32)
    first = next(module for module in model.modules() if getattr(module, "low_rank", None) is prune.pieces[0])
    kept = torch.tensor([1.0, 0, 1, 0]).repeat_interleave(8)
    weight = (first.weight + 2.0 * prune.pieces[0].B @ prune.pieces[0].A) * kept[:, None]
    assert torch.allclose(first(x), functional.linear(x, weight, first.bias), atol=1e-5)


@torch.no_grad()
def test_intrinsic_said_moves_every_weight_by_fastfood() -> None:
    assert torch.allclose(
        hadamard(torch.eye(16)), torch.tensor(hadamard_matrix(16), dtype=torch.float32) / 4, atol=1e-6
    )
    model = randomized(built("roberta", RunSpec(method="intrinsic-said", method_args={"dimension": 50}, **SPEC)))
    layer = model.get_submodule(f"roberta.{LINEAR}")
    piece = layer.parametrizations.weight[0]
    signs, order, gaussian = piece.projection(torch.device("cpu"))
    transform = torch.tensor(hadamard_matrix(64), dtype=torch.float32) / 8
    theta = torch.cat((piece.subspace.theta, torch.zeros(14)))
    rows = []
    for block in range(signs.shape[0]):
        permutation = torch.eye(64)[order[block]]
        rows.append(
            transform @ torch.diag(gaussian[block]) @ permutation @ transform @ torch.diag(signs[block]) @ theta
        )
    moved = piece.scale * torch.cat(rows)[: 32 * 32].view(32, 32) / 8
    assert torch.allclose(layer.weight, layer.parametrizations.weight.original + moved, atol=1e-5)
    pieces = [m.parametrizations.weight[0] for m in model.modules() if hasattr(m, "parametrizations")]
    assert all(other.subspace is piece.subspace for other in pieces)
    assert len(pieces) == 2 * 5


def test_adalora_ends_with_its_budget_of_ranks(tmp_path: Path) -> None:
    # Ranks are taken away at each seventh step, and once more when the last phase begins, at step 14 - 1.
    spec = RunSpec(method="adalora", method_args={"init_r": 6, "target_r": 2, "deltaT": 7, "tfinal": 7}, **SPEC)
    trained = train_steps("roberta", spec, tmp_path)
    kept = [int((p != 0).sum()) for name, p in trained.model.named_parameters() if ".lora_E." in name]
    assert sum(kept) == 2 * 4
    assert len(set(kept)) > 1  # they moved


def test_lora_fa_leaves_its_projection_down_alone_and_gives_the_head_its_rate(tmp_path: Path) -> None:
    spec = RunSpec(method="lora-fa", **SPEC)
    start = {name: value.clone() for name, value in built("roberta", spec).state_dict().items()}
    trained = train_steps("roberta", spec, tmp_path)
    for name, value in trained.model.state_dict().items():
        if ".lora_A." in name:
            assert torch.equal(value, start[name])
        if ".lora_B." in name:
            assert not torch.equal(value, start[name])
    groups = trained.trainer.optimizer.param_groups
    assert [group["initial_lr"] for group in groups] == [1e-3, 5e-3]
    assert all("classifier" in name for name in groups[1]["names"])
    assert not any("classifier" in name for name in groups[0]["names"])


@torch.no_grad()
def test_krona_is_one_kronecker_product() -> None:
    model = randomized(built("roberta", RunSpec(method="krona", **SPEC)))
    layer = model.base_model.model.get_submodule(f"roberta.{LINEAR}")
    update = torch.kron(layer.lokr_w1["default"], layer.lokr_w2["default"])
    assert torch.allclose(layer.get_delta_weight("default"), update, atol=1e-6)
    assert sum(p.numel() for p in (layer.lokr_w1["default"], layer.lokr_w2["default"])) == 4 * 4 + 8 * 8
