"""Every pipeline draws, edits or answers, without extras: smoke.py MODEL PICTURE."""

import sys

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from transformers_arm import *  # noqa: F403
from transformers_arm import ArmPipeline, ArmVQModel

folder, picture = sys.argv[1], Image.open(sys.argv[2]).resize((64, 64))
prompt, instruction, question = "a red circle above a blue square", "make the red circle green", "how many objects?"


def drawn(images) -> None:
    assert all(isinstance(image, Image.Image) and image.size == (64, 64) for image in images), images


drawn([pipeline("text-to-image", model=folder)(prompt, height=64, width=64)])
drawn([pipeline("image-editing", model=folder)(picture, instruction, height=64, width=64)])

pipe = ArmPipeline.from_pretrained(folder)
drawn(pipe([prompt, prompt], height=64, width=64).images)
drawn(pipe(instruction, image=picture, height=64, width=64).images)

asked = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
said = pipeline("image-text-to-text", model=folder)(text=asked, max_new_tokens=8, return_full_text=False)
assert said[0]["generated_text"].strip(), said

model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
inputs = processor.apply_chat_template(
    asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
written = model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
assert processor.batch_decode(written, skip_special_tokens=True)[0].strip()

tokenizer = ArmVQModel.from_pretrained(f"{folder}/vq_model")
codes = tokenizer.encode(processor.image_processor(picture, return_tensors="pt")["pixel_values"]).codes
assert codes.shape == (1, 3, 3), codes
print("every pipeline works")
