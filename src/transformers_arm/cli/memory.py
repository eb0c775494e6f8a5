"""`transformers-arm memory`: what each way to train an ARM takes of memory."""

import argparse
from pathlib import Path

HELP = "what each way to train takes of memory; allocates nothing"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", default="arm-7b", help="arm-7b, or the folder of an ARM (default: %(default)s)")
    command.add_argument("--tokens", type=int, default=8192, help="of a micro-batch on one GPU (default: %(default)s)")
    command.add_argument("--gpus", type=int, default=8, help="that ZeRO and FSDP shard over (default: %(default)s)")
    command.add_argument(
        "--picture-tokens", type=int, default=4096, help="of pictures that rollouts of RL draw (default: %(default)s)"
    )
    command.add_argument("--rank", type=int, default=16, help="of LoRA (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    from ..configuration_arm import ArmConfig
    from ..extras import require
    from ..sizes.presets import arm_7b_config

    require("LoRA", "train", "peft")
    from ..sizes.memory import memory_table

    if arguments.config == "arm-7b":
        config = arm_7b_config()
    elif (Path(arguments.config) / "config.json").is_file():
        config = ArmConfig.from_pretrained(arguments.config)
    else:
        raise ValueError(f"{arguments.config} holds no config.json; name the folder of an ARM, or arm-7b.")
    options = {"tokens": arguments.tokens, "gpus": arguments.gpus, "rank": arguments.rank}
    print(memory_table(config, picture_tokens=arguments.picture_tokens, **options))
