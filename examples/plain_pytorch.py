"""A network of your own, trained in a loop of your own: layers are named by a regular expression."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from propulsion import PropulsionConfig


class Network(nn.Module):
    """Convolutions over a signal, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 16, 5, padding=2), nn.GELU(), nn.Conv1d(16, 16, 5, padding=2), nn.GELU())
        self.head = nn.Linear(16, 2)

    def forward(self, signal: Tensor) -> Tensor:
        """(batch, 3, length) → (batch, 2)."""
        return self.head(self.body(signal).mean(-1))


def network() -> Network:
    """One with random weights, always the same; yours has been trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


def main(output_dir: str = "runs/plain-pytorch", steps: int = 50) -> tuple[PeftModel, list[float]]:
    """Train, and save the adapter with the head.

    Returns:
        The model and the losses. `model.merge_and_unload()` is a `Network` again.
    """
    torch.manual_seed(0)
    config = PropulsionConfig(target_modules=r"body\.(0|2)", modules_to_save=["head"])
    model = get_peft_model(network(), config)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    signals = torch.randn(64, 3, 20)
    labels = (signals.std(dim=(1, 2)) > 1).long()
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(signals), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(output_dir)
    return model, losses


if __name__ == "__main__":
    print(main()[1])
