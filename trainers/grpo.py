"""Reinforcement learning of ARM (paper section 5): GRPO on image tokens, with any reward.

    torchrun --nproc_per_node 2 trainers/grpo.py --config trainers/arm_tiny/grpo_text_to_image.yaml

Writes a complete folder, which pipelines load, to `output_dir`/model. Interrupted, the same command goes on from the
newest complete checkpoint. A recipe's sections:

- `start_from`: a model's folder or Hub id, with its detokenizer in it; also the reference of the KL penalty.
- `dtype` (optional): of the weights; float32 unless it says otherwise.
- `data`: `world`, the name of one, and `arguments` of its `requests`; or `dataset`, what `load_dataset` takes, with
  the columns that `ArmGRPOTrainer` reads.
- `rewards`: a list of `{reward, weight, arguments}`: a name among the world's or in `transformers_arm.rewards`, or
  `module:name` of yours; with `arguments` (keywords) it is called first, as classes are.
- `prompts_per_step`: prompts of one update, over all processes; gradient accumulation follows from it.
- `lora` (optional): keywords of `lora_config`; only adapters are trained, saved to `output_dir`/model/adapter, and
  merged into the model beside them.
- `generation` (optional): fields of the generation config that is saved with the model; rollouts take none of them.
- `evaluation` (optional): fields of `WorldScoresCallback`, its `world` that of the data unless it says otherwise.
- `training`: fields of `ArmGRPOConfig`.
"""

import importlib
import os
from pathlib import Path

from datasets import Dataset, load_dataset

import transformers_arm.rewards
from transformers_arm.data.world import find_world
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.sizes.adapters import lora_config
from transformers_arm.training.callbacks import WorldScoresCallback
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer
from transformers_arm.training.trainer import read_recipe, save_model, set_generation, train
from transformers_arm.training.world_data import world_requests


def find_reward(reward: str, arguments: dict | None = None, world: str | None = None):
    """A reward by its name among a world's or in `transformers_arm.rewards`, or as `module:name`; called with
    `arguments` if given.
    """
    module, _, name = reward.rpartition(":")
    source = importlib.import_module(module) if module else transformers_arm.rewards
    of_world = {} if module or world is None else find_world(world).rewards
    if name not in of_world and not hasattr(source, name):
        others = f", nor has the world {world!r} one ({', '.join(of_world)})" if of_world else ""
        raise ValueError(
            f"There is no reward {name!r} in {source.__name__}{others}; use module:name for one of yours."
        )
    found = of_world[name] if name in of_world else getattr(source, name)
    return found if arguments is None else found(**arguments)


def arguments_of(recipe: dict) -> ArmGRPOConfig:
    """The recipe's `training`, with the gradient accumulation and the weights that its other sections state."""
    section = {"report_to": "tensorboard", **recipe["training"]}
    each = section["per_device_train_batch_size"] * int(os.environ.get("WORLD_SIZE", 1))
    samples = recipe["prompts_per_step"] * section.get("num_generations", ArmGRPOConfig.num_generations)
    if samples % each:
        raise ValueError(
            f"prompts_per_step {recipe['prompts_per_step']} are {samples} samples, not a multiple of the {each} that "
            "all processes take at once; choose another training.per_device_train_batch_size."
        )
    if section.get("max_steps", 0) < 1:
        raise ValueError(f"training.max_steps is {section.get('max_steps')}; the recipe must say how many to train.")
    weights = [entry.get("weight", 1.0) for entry in recipe["rewards"]]
    derived = {"gradient_accumulation_steps": samples // each, "reward_weights": weights}
    return ArmGRPOConfig(output_dir=recipe["output_dir"], **section, **derived)


def requests(data: dict, arguments: ArmGRPOConfig) -> Dataset:
    """The recipe's prompts; of a world as many as the run draws."""
    if "world" not in data:
        return load_dataset(**data["dataset"])
    generations = -(-arguments.max_steps * arguments.gradient_accumulation_steps // arguments.steps_per_generation)
    prompts = generations * arguments.generation_batch_size // arguments.num_generations
    return world_requests(data, prompts, arguments.seed)


def main() -> None:
    recipe = read_recipe(__doc__)
    arguments = arguments_of(recipe)
    model = ArmForCausalLM.from_pretrained(recipe["start_from"], dtype=recipe.get("dtype", "float32"))
    set_generation(model.generation_config, recipe.get("generation", {}))
    lora, world = recipe.get("lora"), recipe["data"].get("world")
    trainer = ArmGRPOTrainer(
        model,
        [find_reward(entry["reward"], entry.get("arguments"), world) for entry in recipe["rewards"]],
        arguments,
        requests(recipe["data"], arguments),
        peft_config=None if lora is None else lora_config(model, **lora),
    )
    if "evaluation" in recipe:
        evaluation = dict(recipe["evaluation"])
        parts = (find_world(evaluation.pop("world", world)), trainer.processing_class, trainer.detokenizer)
        trainer.add_callback(WorldScoresCallback(trainer, *parts, **evaluation))
    train(trainer)
    folder = Path(arguments.output_dir) / "model"
    save_model(trainer, folder, trainer.processing_class, detokenizer=(trainer.detokenizer,))


if __name__ == "__main__":
    main()
