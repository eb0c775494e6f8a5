"""Pre-trains ARM (paper section 3.2) from a Qwen2 checkpoint and a visual tokenizer, on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/pretrain.py --config trainers/arm_tiny/pretrain.yaml

A recipe with `start_from` in place of `backbones` goes on from a model's folder: continual training, or what
`transformers-arm init` assembled. Writes the model to `output_dir`/model. Interrupted, the same command goes on from
the newest complete checkpoint. A recipe's sections: see `train_on_conversations`.
"""

from transformers_arm.training.multimodal import train_on_conversations
from transformers_arm.training.trainer import read_recipe

if __name__ == "__main__":
    train_on_conversations(read_recipe(__doc__))
