"""Supervised fine-tuning with TRL, which takes the configuration of any PEFT method."""

from __future__ import annotations

import tiny
from trl import SFTConfig, SFTTrainer

from propulsion import PropulsionConfig


def main(output_dir: str = "runs/trl-sft") -> SFTTrainer:
    """Train, and save the adapter."""
    trainer = SFTTrainer(
        tiny.language_model(),
        SFTConfig(
            output_dir,
            max_steps=10,
            learning_rate=1e-2,
            logging_steps=1,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=tiny.texts(),
        processing_class=tiny.tokenizer(),
        peft_config=PropulsionConfig(task_type="CAUSAL_LM", target_modules="all"),
    )
    trainer.train()
    trainer.save_model(output_dir)
    return trainer


if __name__ == "__main__":
    main()
