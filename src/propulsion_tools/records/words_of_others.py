"""What other tools call our options. What differs in a letter or two from ours is not here: near misses find it."""

from __future__ import annotations

from collections.abc import Collection

WORDS_OF_OTHERS = {
    "model_name_or_path": "model model_name model_id base_model pretrained_model_name_or_path checkpoint",
    "torch_dtype": "dtype precision fp16 half",
    "bf16": "precision amp mixed_precision",
    "task": "task_name",
    "data_dir": "data dataset data_path train_file train_data validation_file test_file dataset_path",
    "dataset_name": "dataset data dataset_id",
    "dataset_config_name": "dataset_config subset",
    "label_column": "labels label_key target_column",
    "text_column": "text text_key input_column",
    "max_train_samples": "limit num_train num_samples n_train",
    "max_eval_samples": "limit num_eval num_samples n_eval",
    "max_length": "max_seq_length max_seq_len seq_length cutoff_len block_size",
    "max_new_tokens": "max_tokens generation_max_length",
    "target_modules": "modules layers lora_target_modules",
    "layers_to_transform": "layers",
    "degree": "k power",
    "train_bias": "bias",
    "method": "peft peft_method adapter tuner",
    "method_args": "r rank alpha lora_r lora_rank lora_alpha lora_dropout num_virtual_tokens",
    "learning_rate": "lr rate step_size",
    "head_learning_rate": "head_lr classifier_lr",
    "weight_decay": "wd",
    "max_grad_norm": "clip grad_clip gradient_clip",
    "optim": "optimizer",
    "lr_scheduler_type": "scheduler lr_scheduler schedule",
    "warmup_steps": "warmup warmup_ratio",
    "seed": "random_state random_seed manual_seed",
    "seeds": "seed",
    "num_train_epochs": "epochs epoch num_epochs n_epochs max_epochs",
    "max_steps": "steps num_steps iterations max_iters train_steps",
    "per_device_train_batch_size": "batch_size train_batch_size micro_batch_size per_gpu_train_batch_size bs batch",
    "per_device_eval_batch_size": "batch_size eval_batch_size per_gpu_eval_batch_size bs batch",
    "gradient_accumulation_steps": "grad_accum accumulate accumulation_steps accumulate_grad_batches",
    "early_stopping_patience": "patience early_stopping",
    "output_dir": "output out outdir save_dir out_dir save_path",
    "output": "output_file out out_file predictions save_path",
    "input": "input_file in file texts",
    "overwrite_output_dir": "overwrite force",
    "resume_from_checkpoint": "resume",
    "eval_strategy": "evaluation_strategy",
    "report_to": "wandb tensorboard logger tracker",
    "disable_tqdm": "quiet no_progress silent",
    "use_cpu": "cpu no_cuda device gpu",
    "figure": "plot",
    "jobs": "workers n_jobs num_workers",
}
"""Option → words, the likeliest option for a word first."""


def meant(word: str, known: Collection[str]) -> tuple[str, ...]:
    """The options among those known that others call by this word."""
    return tuple(name for name, words in WORDS_OF_OTHERS.items() if name in known and word.lower() in words.split())
