"""Sentence embeddings with sentence-transformers, on the packaged weights of MiniLM."""

from __future__ import annotations

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from propulsion import PropulsionConfig
from propulsion_tools.training.base_models import model_path

PAIRS = {
    "anchor": ["How do I return a parcel?", "Where is my invoice?", "Can I change my order?", "Is it in stock?"],
    "positive": ["returns and refunds", "billing documents", "editing a purchase", "availability of goods"],
}


def main(output_dir: str = "runs/sentence-embeddings") -> SentenceTransformerTrainer:
    """Train, and save the adapter with what sentence-transformers needs to find its base model."""
    model = SentenceTransformer(model_path("minilm"))  # or "sentence-transformers/all-MiniLM-L6-v2", from the hub
    model.add_adapter(PropulsionConfig(task_type="FEATURE_EXTRACTION", target_modules="all"))
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            output_dir, max_steps=4, learning_rate=1e-3, logging_steps=1, report_to="none", save_strategy="no"
        ),
        train_dataset=Dataset.from_dict(PAIRS),
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    model.save_pretrained(output_dir)  # read again by SentenceTransformer(output_dir), after `import propulsion`
    return trainer


if __name__ == "__main__":
    main()
