"""A diffusion model of diffusers: the UNet learns to take the noise out of one image."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import PeftModel, get_peft_model

from propulsion import PropulsionConfig

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


def tiny_unet() -> UNet2DConditionModel:
    """A UNet of random weights, always the same; yours is `UNet2DConditionModel.from_pretrained(...)`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=8,
        )


def main(output_dir: str = "runs/diffusion", steps: int = 10) -> tuple[PeftModel, list[float]]:
    """Train, and save the adapter.

    Returns:
        The steered UNet, and the losses. A pipeline takes `model.merge_and_unload()`, a plain UNet again.
    """
    torch.manual_seed(0)
    model = get_peft_model(tiny_unet(), PropulsionConfig(target_modules=TARGETS))
    scheduler = DDPMScheduler()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    images, prompt = torch.randn(1, 4, 8, 8).repeat(16, 1, 1, 1), torch.randn(1, 5, 32).repeat(16, 1, 1)
    losses = []
    for _ in range(steps):
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        noisy = scheduler.add_noise(images, noise, times)
        loss = torch.nn.functional.mse_loss(model(noisy, times, prompt).sample, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(output_dir)
    return model, losses


if __name__ == "__main__":
    print(main()[1])
