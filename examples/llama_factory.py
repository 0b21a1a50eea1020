"""LLaMA-Factory's version 1 with Propulsion; the YAML file beside this one has the options.

python examples/tiny.py
python examples/llama_factory.py examples/llama_factory.yaml
torchrun --nproc_per_node 2 examples/llama_factory.py examples/llama_factory.yaml
"""

from llamafactory.v1.trainers.sft_trainer import run_sft

import propulsion.integrations.llama_factory  # noqa: F401 (makes `name: propulsion` known)

if __name__ == "__main__":
    run_sft()
