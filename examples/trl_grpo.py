"""Group relative policy optimization with TRL: answers are generated, rewarded, and held near the base model's."""

from __future__ import annotations

import tiny
from trl import GRPOConfig, GRPOTrainer

from propulsion import PropulsionConfig


def is_right(completions: list[str], answer: list[str], **kwargs: object) -> list[float]:
    """1 for each completion that has the answer in it."""
    return [float(right in text.split()) for text, right in zip(completions, answer, strict=True)]


def main(output_dir: str = "runs/trl-grpo") -> GRPOTrainer:
    """Train, and save the adapter."""
    trainer = GRPOTrainer(
        tiny.language_model(),
        reward_funcs=is_right,
        args=GRPOConfig(
            output_dir,
            max_steps=3,
            learning_rate=1e-2,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=6,
            beta=0.1,
            logging_steps=1,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
        peft_config=PropulsionConfig(task_type="CAUSAL_LM", target_modules="all"),
    )
    trainer.train()
    trainer.save_model(output_dir)
    return trainer


if __name__ == "__main__":
    main()
