"""Rollouts: what is sampled, with which log-probabilities, and what that relies on in TRL."""

import inspect

import pytest
import torch
from datasets import Value, load_dataset
from grpo_requests import MIXED, SCENE, TINY, brightness, dataset_of, rollout
from pipeline_requests import pictures_prepared
from tiny_arm import runs_of
from trl import GRPOTrainer

from transformers_arm import ArmForCausalLM, generation_arm
from transformers_arm.data.row_errors import RowError
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer

# --- rollouts --------------------------------------------------------------------------------------------------------


def test_completions_are_exactly_the_grids_image_tokens(train):
    sizes = [(None, None), (32, 64), (16, 48), (None, None)]
    rows = [{**row, "height": height, "width": width} for row, (height, width) in zip(MIXED, sizes, strict=True)]
    rows = dataset_of(rows, height=Value("int64"), width=Value("int64"))
    seen = {}

    def reward(images, source_images, completion_ids, task, prompts, **_):
        seen.update(images=images, completion_ids=completion_ids)
        return brightness(images)

    trainer = train(reward, dataset=rows, max_steps=0)
    output = rollout(trainer)
    offset = trainer.arm.config.visual_token_offset
    counts = [9] * 4 + [8] * 4 + [3] * 4 + [9] * 4
    assert [len(ids) for ids in seen["completion_ids"]] == counts
    assert all(token >= offset for ids in seen["completion_ids"] for token in ids)
    assert output["completion_mask"].sum(1).tolist() == counts
    assert seen["images"][8].size == (48, 16)
    assert seen["images"][4].size == SCENE.size  # an edit comes back at its source's size


def test_prompts_are_what_generate_gets_from_the_processor(train):
    trainer = train(max_steps=0)
    output = rollout(trainer)
    first = output["prompt_ids"][4][output["prompt_mask"][4].bool()]  # the first edit
    inputs = trainer.processing_class.image_generation_inputs(
        [MIXED[1]["prompt"]], [SCENE], size={"height": 48, "width": 48}
    )
    expected = trainer.arm.model.fill_image_tokens(inputs["input_ids"], inputs["pixel_values"])[0]
    assert first.tolist() == [*expected.tolist(), *trainer.arm.config.image_opening(3, 3)]


def test_sources_are_prepared_and_encoded_once_a_prompt(train, monkeypatch):
    trainer = train(max_steps=0)
    prepared, encoded = pictures_prepared(monkeypatch), runs_of(trainer.arm.vq_model.vision_model)
    behind = runs_of(trainer.arm.vq_model.up_blocks)
    rollout(trainer)  # two edits among four prompts
    assert prepared == encoded == [2]
    assert sum(behind) == 4 * len(MIXED)  # the samples, as they are rendered


def test_rollouts_ignore_the_folders_generation_config(train, arm_folder):
    def tokens(**image_generation):
        model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
        model.generation_config.image_generation |= image_generation
        return rollout(train(model=model, max_steps=0))["completion_ids"]

    assert torch.equal(tokens(), tokens(do_sample=False, temperature=0.1, top_k=1, guidance_scale=5.0))


def test_a_prompt_whose_address_has_died_gives_way_to_another_of_the_batch(train, caplog):
    rows = [MIXED[0], {"prompt": "redder", "source_image": {"path": "http://127.0.0.1:9/a.png"}}, *MIXED[2:]]
    seen = []
    trainer = train(lambda prompts, images, **_: seen.append(prompts) or brightness(images), rows)
    assert trainer.state.global_step == 2
    batches = [list(dict.fromkeys(prompts)) for prompts in seen]
    assert all(len(prompts) == 8 and "redder" not in prompts for prompts in seen) and min(map(len, batches)) == 1
    assert "train_dataset, skipped: Row with prompt 'redder', column 'source_image': http://127.0.0.1:9" in caplog.text


@pytest.mark.parametrize("pad", [None, 16])
def test_log_probabilities_are_the_samplers(train, pad):
    trainer = train(max_steps=0, temperature=0.7, editing_temperature=1.3, pad_to_multiple_of=pad)
    output = rollout(trainer)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    trainer.model.eval()
    log_probs, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, output["completion_ids"].shape[1], batch_size=3, compute_entropy=True
    )
    for row, edit in ((0, False), (4, True), (12, True)):
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()][:-3]
        request = trainer._rollout[row]
        sampled = trainer.arm.generate(
            input_ids=prompt[None], generation_mode="image", image_grid=(3, 3), do_sample=True, top_k=0, top_p=1.0,
            temperature=1.3 if edit else 0.7, guidance_scale=1.0, image_guidance_scale=1.0,
            generator=[trainer._generator("train", row, request.prompt)],
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert sampled.sequences[0, -10:-1].tolist() == output["completion_ids"][row][:9].tolist()
        scores = torch.stack(sampled.scores, 1)[0].log_softmax(-1)
        codes = sampled.sequences[0, -10:-1] - trainer.arm.config.visual_token_offset
        # Both are differences of logits that are tens in size, in fp32.
        torch.testing.assert_close(log_probs[row][:9], scores.gather(1, codes[:, None])[:, 0], atol=1e-5, rtol=1e-5)
        expected = torch.distributions.Categorical(logits=scores).entropy()
        torch.testing.assert_close(entropies[row][:9], expected, atol=1e-4, rtol=0)


def test_log_probabilities_in_chunks_are_the_same_and_so_are_their_gradients(arm_folder, monkeypatch):
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    config = model.config
    opening = config.image_opening(3, 3)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(config.visual_token_offset, config.vocab_size, (2, 9), generator=generator)
    ids = torch.cat([torch.tensor([[5, 6, *opening], [7, 8, *opening]]), codes], 1)

    def scored():
        model.zero_grad()
        output = model(input_ids=ids, labels=ids, scoring_temperature=torch.tensor([0.5, 2.0]))
        (output.log_probs.sum() + output.entropies.sum()).backward()
        return output.log_probs, output.entropies, model.lm_head.weight.grad.clone()

    whole = scored()
    monkeypatch.setattr("transformers_arm.loss_arm.LOGITS_AT_ONCE", 4 * 1024)
    for one, other in zip(whole, scored(), strict=True):  # large terms cancel: what fp32 rounds is of their size
        torch.testing.assert_close(one, other, atol=1e-5 + 1e-6 * float(one.detach().abs().max()), rtol=1e-5)
    with pytest.raises(ValueError, match="pass labels"):
        model(input_ids=ids, scoring_temperature=1.0)


def test_only_image_rows_of_the_head_are_optimised(train):
    trainer = train(max_steps=0, beta=0.0)
    assert not trainer.arm.config.tie_word_embeddings
    inputs = rollout(trainer)
    trainer.current_gradient_accumulation_steps = 1  # `train` sets it
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradient = trainer.arm.lm_head.weight.grad
    offset = trainer.arm.config.visual_token_offset
    assert gradient[:offset].abs().max() == 0
    assert gradient[offset:].abs().max() > 0


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(train):
    whole = rollout(train(max_steps=0))["completion_ids"]
    trainer = train(max_steps=0)
    rows = [row for row in trainer.train_dataset for _ in range(4)]
    trainer.model.train()
    part = trainer._generate_and_score_completions(rows[:8])["completion_ids"]
    # Logits round otherwise in another batch: a number that falls between two codes may tip, one in thousands does.
    assert (whole[:8] == part).all(1).sum() >= 7


def batches_drawn(monkeypatch) -> list[int]:
    """A list to which every drawing of codes adds the rows that its cache has places for."""
    rows, draw = [], generation_arm.draw_codes

    def counting(decoder, head, prefix, sampling, uniform, **options):
        rows.append(prefix.branches * len(uniform))
        return draw(decoder, head, prefix, sampling, uniform, **options)

    monkeypatch.setattr(generation_arm, "draw_codes", counting)
    return rows


def test_micro_batches_of_a_rollout_draw_the_same_and_hold_no_more_than_they_say(train, monkeypatch):
    found = {}
    for size in (None, 1, 3, 16):
        rows = batches_drawn(monkeypatch)
        trainer = train(max_steps=0, rollout_batch_size=size)
        prepared, encoded = pictures_prepared(monkeypatch), runs_of(trainer.arm.vq_model.vision_model)
        ids = rollout(trainer)["completion_ids"]
        found[size] = ids, [request.picture.tobytes() for request in trainer._rollout]
        assert rows == {None: [8, 8], 1: [1] * 16, 3: [3, 3, 2] * 2, 16: [8, 8]}[size]  # two tasks, two prompts each
        assert sum(prepared) == sum(encoded) == 2  # the edits' sources, once, for however many micro-batches
        monkeypatch.undo()
    whole, pictures = found[None]
    for ids, drawn in found.values():
        alike = (whole == ids).all(1)  # as in any other batch, one in thousands of numbers may tip
        assert alike.sum() >= len(whole) - 1
        assert all(one == other for one, other, same in zip(pictures, drawn, alike, strict=True) if same)


@pytest.mark.parametrize("beta", [0.0, 0.01])
def test_scores_are_taken_by_as_many_as_a_device_takes_at_once(train, beta):
    settings = {"per_device_train_batch_size": 2, "steps_per_generation": 8, "gradient_accumulation_steps": 1}
    trainer = train(max_steps=0, beta=beta, **settings)
    scored = []
    for model in (trainer.arm, trainer.ref_model) if beta else (trainer.arm,):
        model.register_forward_pre_hook(
            lambda _, args, kwargs: scored.append(len(kwargs["input_ids"])), with_kwargs=True
        )
    output = rollout(trainer)
    assert len(output["old_per_token_logps"]) == 16 and ("ref_per_token_logps" in output) == bool(beta)
    assert scored == [2] * 8 * (2 if beta else 1)


# --- what is relied on in TRL ----------------------------------------------------------------------------------------

RELIED_ON = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
    ],
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
}  # fmt: skip


@pytest.mark.parametrize("name", RELIED_ON)
def test_trls_private_methods_have_the_signatures_we_override(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == RELIED_ON[name]


def test_trls_log_probability_method_is_called_as_we_override_it():
    theirs = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    ours = [
        name
        for name, parameter in inspect.signature(ArmGRPOTrainer._get_per_token_logps_and_entropies).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ]
    assert list(theirs)[: len(ours)] == ours
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "per_token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(" in source


def test_trls_generate_returns_what_we_take_apart():
    source = inspect.getsource(GRPOTrainer._generate)
    assert (
        "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images"
        in source
    )
    weighting = "(rewards_per_func * self.reward_weights.to(device).unsqueeze(0)).nansum(dim=1)"
    assert weighting in inspect.getsource(GRPOTrainer._generate_and_score_completions)


# --- what rows may name ----------------------------------------------------------------------------------------------


def test_rows_of_files_name_local_sources_only_where_the_caller_trusts_them(arm_folder, tmp_path):
    SCENE.save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("prompt,source_image\n" + f"redder,{tmp_path / 'a.png'}\n" * 2)
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    rows = load_dataset("csv", data_files=str(tmp_path / "rows.csv"), **options)

    def new_trainer(*datasets, **settings):
        args = ArmGRPOConfig(str(tmp_path / "run"), **TINY | {"per_device_eval_batch_size": 8}, **settings)
        return ArmGRPOTrainer(arm_folder, brightness, args, *datasets)

    with pytest.raises(ValueError, match="train_dataset: Row 0, column 'source_image': .* Pass local_files=True"):
        new_trainer(rows)
    assert rollout(new_trainer(rows, local_files=True))["completion_ids"].shape == (8, 9)
    made = dataset_of(MIXED)
    with pytest.raises(ValueError, match="Row 0, column 'source_image': .* Pass local_files=True"):
        new_trainer(made, rows)
    streamed = load_dataset("csv", data_files=str(tmp_path / "rows.csv"), streaming=True, **options)
    with pytest.raises(RowError, match="column 'source_image': .* Pass local_files=True"):
        new_trainer(made).evaluate(streamed)
    assert new_trainer(made, local_files=True).evaluate(streamed)["eval_reward"] > 0
