"""The tuner in ms-swift itself, by its command. `make integrations` has an environment with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from propulsion.errors import ConfigError
from tests.propulsion.integrations.hosts import differences
from tests.propulsion.integrations.programs import folder, run, scores, trained

__all__ = ["folder"]
swift = pytest.importorskip("swift", reason="ms-swift is not installed: make integrations")

PROGRAM = """
import sys
from swift.pipelines import export_main, sft_main
{"sft": sft_main, "export": export_main}[sys.argv[1]](sys.argv[2:])
"""
MODEL = "--model base --model_type llama --template dummy --torch_dtype float32"
SFT = (
    "--external_plugins examples/ms_swift_plugin.py --tuner_type propulsion --dataset chats.jsonl --max_steps 5 "
    "--learning_rate 1e-2 --output_dir runs/ms-swift --add_version false --report_to none --dataset_num_proc 1 "
    "--dataloader_num_workers 0 --load_from_cache_file false --logging_steps 1"
)


def test_it_trains_resumes_and_merges(folder: Path) -> None:
    run(folder, "-c", PROGRAM, "sft", *MODEL.split(), *SFT.split())
    adapter = folder / "runs" / "ms-swift" / "checkpoint-5"
    model = trained(adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["degree"] == 15
    run(
        folder, "-c", PROGRAM, "export", *["--merge_lora", "true", "--output_dir", "merged", "--adapters"], str(adapter)
    )
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    torch.testing.assert_close(scores(merged), scores(model), rtol=1e-3, atol=1e-4)
    again = SFT.replace("--max_steps 5", "--max_steps 7").split()
    run(folder, "-c", PROGRAM, "sft", *MODEL.split(), *again, "--resume_from_checkpoint", str(adapter))
    assert not torch.equal(scores(trained(adapter.with_name("checkpoint-7"))), scores(model))


def test_a_tuner_has_a_name_and_options() -> None:
    from swift.tuner_plugin import tuners_map

    from propulsion.integrations.ms_swift import register

    assert tuners_map.get("propulsion-attn") is None
    assert register("propulsion-attn", target_modules="attn") is tuners_map.pop("propulsion-attn")
    with pytest.raises(ConfigError, match="no option 'degre'"):
        register(degre=3)


def test_the_stand_in_is_like_it() -> None:
    assert differences("swift.tuner_plugin") == []
