"""Pre-trains ARM (paper section 3.2) from a Qwen2 checkpoint and a visual tokenizer, on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/pretrain.py --config trainers/arm_tiny/pretrain.yaml

Writes the model to `output_dir`/model. Interrupted, the same command goes on from the newest complete checkpoint.
"""

from transformers import AutoTokenizer, set_seed

from transformers_arm.data.world_tasks import WorldTasks
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.training.multimodal import train_on_conversations
from transformers_arm.training.trainer import read_recipe, training_arguments


def main() -> None:
    recipe = read_recipe(__doc__)
    backbones = recipe["backbones"]
    arguments = training_arguments(recipe["training"], output_dir=recipe["output_dir"])
    set_seed(arguments.seed)
    model = ArmForCausalLM.from_backbones(**backbones)
    tokenizer = AutoTokenizer.from_pretrained(backbones["text"])
    train_on_conversations(model, tokenizer, arguments, WorldTasks.for_training(arguments, **recipe["data"]))


if __name__ == "__main__":
    main()
