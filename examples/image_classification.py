"""A ViT that learns with transformers' Trainer whether images are red or blue."""

from __future__ import annotations

import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from propulsion import PropulsionConfig


def tiny_vit() -> ViTForImageClassification:
    """A ViT of random weights, always the same; yours is `AutoModelForImageClassification.from_pretrained(...)`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViTForImageClassification(
            ViTConfig(
                image_size=16,
                patch_size=4,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                num_labels=2,
            )
        )


def images(count: int = 64) -> list[dict[str, torch.Tensor]]:
    """Noise, with more red in those with label 0, and more blue in those with label 1."""
    pixels, labels = torch.randn(count, 3, 16, 16), torch.arange(count) % 2
    pixels[labels == 0, 0] += 0.5
    pixels[labels == 1, 2] += 0.5
    return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]


def main(output_dir: str = "runs/image-classification") -> Trainer:
    """Train, and save the adapter with the head."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_vit(), PropulsionConfig(target_modules="all", modules_to_save=["classifier"]))
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir,
            max_steps=20,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            label_names=["labels"],
            logging_steps=5,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=images(),
        compute_metrics=lambda answers: {"accuracy": (answers.predictions.argmax(-1) == answers.label_ids).mean()},
    )
    trainer.train()
    model.save_pretrained(output_dir)
    return trainer


if __name__ == "__main__":
    print(main().evaluate(images(32)))
