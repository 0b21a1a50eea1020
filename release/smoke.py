"""What someone does first with an installed wheel, in an empty folder outside the tree: `python release/smoke.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

ROWS = (("the parcel never came", "delivery"), ("charged twice for one order", "billing"))


def propulsion(*words: str) -> str:
    """Call the installed command; what it printed."""
    command = Path(sysconfig.get_path("scripts")) / "propulsion"
    return subprocess.run([command, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def in_python() -> None:
    """Write a base model with a tokenizer, save an adapter of it, load it and merge it; the outputs stay the same."""
    import torch
    from peft import PeftModel, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from propulsion import PropulsionConfig

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32)).save_pretrained("base")
    words = {word for text, _ in ROWS for word in text.split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained("base")
    config = PropulsionConfig(task_type="SEQ_CLS", target_modules="all", degree=15)
    model = get_peft_model(BertForSequenceClassification.from_pretrained("base"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "propulsion_delta" in name:
                parameter.normal_(std=0.01)
    ids = torch.arange(12).view(2, 6)
    expected = model(ids).logits
    model.save_pretrained("adapter")
    loaded = PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained("base"), "adapter").eval()
    torch.testing.assert_close(loaded(ids).logits, expected)
    torch.testing.assert_close(loaded.merge_and_unload()(ids).logits, expected, rtol=1e-4, atol=1e-5)


def train() -> None:
    """Try a training of that base model on rows written here, then train it."""
    for split in ("train", "validation"):
        rows = [json.dumps({"text": text, "label": label}) for text, label in ROWS * 8]
        Path("rows").mkdir(exist_ok=True)
        Path("rows", f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = "train", "--data_dir", "rows", "--model_name_or_path", "base"
    assert "2 steps taken" in propulsion(*command, "--smoke", "--output_dir", "nowhere")
    propulsion(*command, "--output_dir", "run", "--num_train_epochs", "1")
    assert json.loads(Path("run", "record.json").read_text(encoding="utf-8"))
    assert Path("run", "adapter_model.safetensors").exists()


def main() -> None:
    """Do it all; an exception says what failed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        import propulsion as method

        assert Path(method.__file__).is_relative_to(sysconfig.get_path("purelib")), method.__file__
        assert version("propulsion-peft") in propulsion("--version")
        in_python()
        train()
        os.chdir("/")
    packages = ("torch", "transformers", "peft")
    print("the wheel works: Python", sys.version.split()[0], *(f"{name} {version(name)}" for name in packages))


if __name__ == "__main__":
    main()
