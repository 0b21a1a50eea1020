"""The folders of finished grids end in the hash of what was run: it must stay what it is."""

from __future__ import annotations

from typing import Any

import pytest

from propulsion_tools.compare.plan import spec_hash
from propulsion_tools.records import RunSpec
from propulsion_tools.records.run_spec import BEFORE

COMMON = {"max_target_length": 128, "doc_stride": 64, "max_new_tokens": 64, "num_beams": 1}
QUIET = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "overwrite_output_dir": True}


# The names of runs in docs/studies/tasks, and what their records say.
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (
            "cola-head-lr0.00167-seed42-d89a06dd",
            {"task": "cola", "max_train_samples": 8551, "max_length": 64, "method": "head", "learning_rate": 0.001665},
        ),
        (
            "stsb-propulsion-all-lr0.000333-seed42-650f5575",
            {
                "task": "stsb",
                "max_train_samples": 5749,
                "max_length": 96,
                "method": "propulsion-all",
                "learning_rate": 0.000333,
                "head_learning_rate": 0.005,
            },
        ),
        (
            "ncbi_disease-propulsion-all-lr0.003-seed42-24bd1eed",
            {
                "task": "ncbi_disease",
                "max_train_samples": 5424,
                "max_length": 128,
                "method": "propulsion-all",
                "learning_rate": 0.003,
                "head_learning_rate": 0.005,
                "group_by_length": True,
            },
        ),
    ],
)
def test_the_hash_of_a_finished_run_is_the_end_of_its_folder(folder: str, said: dict[str, Any]) -> None:
    values = {**COMMON, **QUIET, **said, "data_dir": f"data/{said['task']}", "output_dir": f"runs/tasks/{folder}"}
    assert spec_hash(RunSpec.from_dict({**BEFORE, **values})) == folder.rpartition("-")[2]


def test_the_hash_of_every_kind_of_value() -> None:
    patterned = RunSpec(**BEFORE, degree=(1, 2), degree_pattern={"query": 5}, target_modules=("q", "v"), max_steps=7)
    assert spec_hash(RunSpec(**BEFORE)) == "44136fa3"
    assert spec_hash(RunSpec(**{**vars(patterned), "use_cpu": True, "smoke": True, "logging_steps": 5})) == "837d93d6"
