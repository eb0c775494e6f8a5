"""Fine-tunes a pre-trained ARM (paper section 3.2) on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/sft.py --config trainers/arm_tiny/sft.yaml

Writes the model to `output_dir`/model. Interrupted, the same command goes on from the newest complete checkpoint. A
recipe's sections: see `train_on_conversations`; with `lora` only adapters are trained.
"""

from transformers_arm.training.multimodal import train_on_conversations
from transformers_arm.training.trainer import read_recipe

if __name__ == "__main__":
    train_on_conversations(read_recipe(__doc__))
