"""What the recipes are made of: how a row of the paper's tables is run here, and where each value comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

TABLES = ("1", "2", "3", *(str(number) for number in range(9, 24)))
LLM_REASONING = "3"
BATCH = 64
"""Rows of a step, section 4.4."""
OURS = "ours"
DEFAULTS = "the paper, section 4.4: its defaults for all methods"


class Value(NamedTuple):
    """A value and where it is from."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Model:
    """A model of the paper.

    Args:
        hub_id: Which checkpoint; the paper often gives the family alone.
        origin: Whether the paper or we chose this one.
        batch: Rows per step that fit beside it; the rest of `BATCH` is accumulated.
        large: Whether it is kept in bfloat16 and recomputes its activations.
    """

    hub_id: str
    origin: str
    batch: int = 64
    large: bool = False


LLM_SIZE = "the paper names the family; this checkpoint of it is ours"
MODELS = {
    "roberta-base": Model("FacebookAI/roberta-base", "the paper"),
    "roberta-large": Model("FacebookAI/roberta-large", "the paper", batch=32),
    "deberta-v3-base": Model("microsoft/deberta-v3-base", "the paper", batch=16),
    "bart-large": Model("facebook/bart-large", "the paper", batch=8),
    "bloomz-7b": Model("bigscience/bloomz-7b1", "the paper", batch=4, large=True),
    "gpt-j-6b": Model("EleutherAI/gpt-j-6b", "the paper", batch=4, large=True),
    "llama-7b": Model("huggyllama/llama-7b", "the paper; this copy of the weights is ours", batch=4, large=True),
    "llama-13b": Model("huggyllama/llama-13b", "the paper; this copy of the weights is ours", batch=2, large=True),
    "bloom": Model("bigscience/bloom-7b1", LLM_SIZE, batch=4, large=True),
    "llama2": Model("meta-llama/Llama-2-7b-hf", LLM_SIZE, batch=4, large=True),
    "falcon": Model("tiiuae/falcon-7b", LLM_SIZE, batch=4, large=True),
    "mistral": Model("mistralai/Mistral-7B-v0.1", LLM_SIZE, batch=4, large=True),
    "phi-2": Model("microsoft/phi-2", "the paper", batch=8, large=True),
}


@dataclass(frozen=True)
class Dataset:
    """A data set of the paper.

    Args:
        task: Our name.
        epochs: Passes over its training rows; the paper gives none.
        max_length: Longest input in tokens; the paper gives none. None: the task's own.
        degree: Of Propulsion, where section 4.2 gives one.
        needs: What has to be added to the command, as the end of a sentence.
    """

    task: str
    epochs: int
    max_length: int | None = 128
    degree: int | None = None
    needs: str = ""


FOLDER = "--data_dir FOLDER with its files (LLM-Adapters has them): it is not on the hub in a form that can be read"
DATASETS = {
    "CoLA": Dataset("cola", 20, degree=20),
    "Cola": Dataset("cola", 20),
    "SST2": Dataset("sst2", 5, degree=15),
    "MRPC": Dataset("mrpc", 30, degree=55),
    "STS-B": Dataset("stsb", 30, degree=15),
    "QQP": Dataset("qqp", 3, degree=15),
    "MNLI": Dataset("mnli", 3, degree=20),
    "QNLI": Dataset("qnli", 5, degree=55),
    "RTE": Dataset("rte", 30, 256, degree=15),
    "SQuADv1.1": Dataset("squad", 3, 384, degree=35),
    "SQuADv2.0": Dataset("squad_v2", 3, 384, degree=35),
    "XSum": Dataset("xsum", 2, None, degree=35),
    "CNN/DailyMail": Dataset("cnn_dailymail", 2, None, degree=25),
    "BoolQ": Dataset("boolq", 3, None),
    "PIQA": Dataset("piqa", 3, None),
    "SIQA": Dataset("siqa", 3, None),
    "H.Swag": Dataset("hellaswag", 3, None),
    "W.Grande": Dataset("winogrande", 3, None),
    "ARC-e": Dataset("arc_easy", 3, None),
    "ARC-c": Dataset("arc_challenge", 3, None),
    "OBQA": Dataset("obqa", 3, None),
    "MultiArith": Dataset("multiarith", 3, None),
    "GSM8K": Dataset("gsm8k", 3, None),
    "AddSub": Dataset("addsub", 3, None, needs=FOLDER),
    "SingleEq": Dataset("singleeq", 3, None, needs=FOLDER),
    "SVAMP": Dataset("svamp", 3, None),
    "Fake News Filipino": Dataset("fake_news_filipino", 10, 256),
    "Emotion": Dataset("emotion", 5),
    "conll03": Dataset("conll2003", 5),
    "NCBI disease": Dataset("ncbi_disease", 10),
    "WikiAnn": Dataset("wikiann", 5),
    "SNLI": Dataset("snli", 2),
}
NO_DATASET = {"Avg.": "an average over the other columns"}


METHODS = {
    "Full Fine-tuning": "full",
    "Prompt Tuning": "prompt-tuning",
    "Prefix": "prefix-tuning",
    "Prefix-Tuning": "prefix-tuning",
    "P-Tuning": "p-tuning",
    "LoRA": "lora",
    "LoRA Rank 1": "lora-r1",
    "LoRA Rank 2": "lora-r2",
    "AdaLoRA": "adalora",
    "Parallel": "parallel-adapter",
    "Propulsion": "propulsion-all",
    "Propulsion(All)": "propulsion-all",
    "Propulsion(Attn)": "propulsion-attn",
}
"""Our names of the methods of tables 3 and 9–23; those of tables 1 and 2, with what gives their counts, are in
`propulsion_tools.methods.paper_settings`."""
COUNTED = "gives the parameters that the table prints"
# What 1,024 positions leave for the text.
ROOM = {("bart-large", "prompt-tuning"): 512, ("bart-large", "prefix-tuning"): 1004}
LLM_PROPULSION = {
    "degree": Value(15, "the paper, section 4.3"),
    "num_vectors": Value(5, "the paper, section 4.3"),
    "pooling": Value("mean", "the paper, appendix F.1: the best on average"),
    "init_noise": Value(0.001, "ours: vectors that start equal stay equal"),
}
APPENDIX_K_DEGREE = Value(15, "ours: what section 4.3 takes for large models, the appendix is silent")


def refusal(model: str, method: str) -> str | None:
    """Why a row of the paper cannot be run by any method here, as a clause; None if it can."""
    if method == "prefix-tuning" and model.startswith("deberta"):
        return "DeBERTa's attention takes no keys and values from outside, which a prefix is"
    return None
