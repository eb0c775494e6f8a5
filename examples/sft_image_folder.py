"""Fine-tunes an ARM on a folder of your own pictures, and saves a complete ARM folder for `pipeline("text-to-image")`.

    python examples/sft_image_folder.py my_pictures my_arm --steps 200

docs/data.md says what stands in my_pictures/metadata.csv, and ArmSFTConfig what else can be set.
"""

import argparse

import torch

from transformers_arm import ArmForCausalLM
from transformers_arm.data.columns import check_dataset
from transformers_arm.data.folders import load_files
from transformers_arm.training.parts import detokenizer_of, processor_of
from transformers_arm.training.sft_trl import ArmSFTConfig, ArmSFTTrainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("pictures", help="folder of pictures with a metadata.csv or metadata.jsonl")
parser.add_argument("output", help="folder to save to")
parser.add_argument("--model", default="checkpoints/arm-tiny", help="complete ARM folder or Hub id to start from")
parser.add_argument("--steps", type=int, default=200)
options = parser.parse_args()

dataset = load_files("imagefolder", data_dir=options.pictures)
model = ArmForCausalLM.from_pretrained(options.model, dtype=torch.float32)
processor, detokenizer = processor_of(model), detokenizer_of(model)
print("Rows of each task:", dict(check_dataset(dataset, processor.image_processor)))
config = ArmSFTConfig(
    options.output, max_steps=options.steps, learning_rate=3e-4, save_strategy="no", report_to="none"
)
trainer = ArmSFTTrainer(model, config, train_dataset=dataset, processing_class=processor)
trainer.train()
trainer.save_model()  # the model and its processor; the pipelines want the detokenizer beside them
detokenizer.save_pretrained(f"{options.output}/detokenizer")
