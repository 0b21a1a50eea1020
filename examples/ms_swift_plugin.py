"""The plug-in file for ms-swift.

python examples/tiny.py
swift sft --external_plugins examples/ms_swift_plugin.py --tuner_type propulsion --learning_rate 1e-2 \
    --model base --model_type llama --template dummy --dataset chats.jsonl --torch_dtype float32 \
    --max_steps 5 --output_dir runs/ms-swift --add_version false
swift export --adapters runs/ms-swift/checkpoint-5 --merge_lora true --output_dir merged
"""

from propulsion.integrations.ms_swift import register

register("propulsion", target_modules="all", degree=15)
