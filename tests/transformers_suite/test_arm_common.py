"""ARM's models under transformers' own model, training and configuration tests: `make test-transformers`."""

import unittest
from unittest import mock

import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.testing_utils import torch_device
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

from transformers_arm.configuration_arm import MAX_GRID_SIDE, ArmConfig, ArmVQConfig
from transformers_arm.modeling_arm import ArmForCausalLM, ArmModel
from transformers_arm.modeling_arm_vq import ArmVQModel

# The suite looks classes up by name in these tables, which hold transformers' own models only.
MODEL_MAPPING_NAMES.update(arm="ArmModel", arm_vq="ArmVQModel")
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.update(arm="ArmForCausalLM")

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT_ROWS = 300
GROWTH_IS_REFUSED = "Growing the vocabulary is refused by contract: image tokens stand above the text rows"


def vq_config(**config) -> ArmVQConfig:
    vision = SIZE | {"image_size": 48, "patch_size": 16}
    return ArmVQConfig(vision_config=vision, num_projection_layers=1, fsq_levels=[2] * 6, **config)


class ArmTesterMixin(ModelTesterMixin, TrainingTesterMixin):
    """What both model tests share. Tests that a missing accelerator or library skips say so themselves."""

    model_tester = None  # abstract in one of the mixins
    test_can_init_all_missing_weights_before_2023 = True  # the suite reads a file's age from a notice ours have not
    _is_composite = True

    def test_can_init_all_missing_weights(self):
        # For classes outside transformers it passes over modules without weights of their own. Siglip's draw their
        # children's weights, so a tower that no checkpoint fills would get others; loading refuses such checkpoints.
        with mock.patch.object(PreTrainedModel, "is_custom_code", return_value=False):
            super().test_can_init_all_missing_weights()

    def test_disk_offload_bin(self):
        self.skipTest("it loads pickled weights, which are refused; test_disk_offload_safetensors does the same")

    def test_sdpa_can_dispatch_non_composite_models(self):
        self._is_composite = False  # what it checks holds for every model; its twin wants a language tower
        super().test_sdpa_can_dispatch_non_composite_models()


class ArmModelTester:
    """Sequences of text and image tokens for a tiny ARM."""

    causal_lm_class = ArmForCausalLM
    is_training = True
    batch_size, seq_length = 3, 7
    hidden_size = SIZE["hidden_size"]
    num_hidden_layers = SIZE["num_hidden_layers"]
    num_attention_heads = SIZE["num_attention_heads"]

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> ArmConfig:
        # The suite walks through all sub-configurations, so all have to be there.
        text, captioner = SIZE | {"vocab_size": 40}, SIZE | {"vocab_size": 40, "num_key_value_heads": 1}
        tokenizer = vq_config(text_config=text, captioner_config=captioner)
        return ArmConfig(
            **SIZE,
            num_key_value_heads=1,
            max_position_embeddings=64,
            vq_config=tokenizer,
            vocab_size=TEXT_ROWS + tokenizer.codebook_size,
            visual_token_offset=TEXT_ROWS,
            shape_token_offset=TEXT_ROWS - 2 * MAX_GRID_SIDE,
            vision_start_token_id=20,
            vision_end_token_id=21,
            image_token_id=22,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        input_ids = torch.randint(3, config.vocab_size, (self.batch_size, self.seq_length), device=torch_device)
        return config, {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class ArmModelTest(ArmTesterMixin, unittest.TestCase):
    all_model_classes = (ArmModel, ArmForCausalLM)
    test_all_params_have_gradient = False  # the frozen tokenizer's have none, and some releases count them

    def setUp(self):
        self.model_tester = ArmModelTester(self)

    def test_config(self):
        ConfigTester(self, config_class=ArmConfig, hidden_size=64, num_hidden_layers=3).run_common_tests()

    @unittest.skip(GROWTH_IS_REFUSED)
    def test_resize_tokens_embeddings(self):
        pass

    @unittest.skip(GROWTH_IS_REFUSED)
    def test_resize_embeddings_untied(self):
        pass

    @unittest.skip(GROWTH_IS_REFUSED)
    def test_resize_embeddings_untied_no_reinit_on_post_init(self):
        pass

    @unittest.skip("It asks for GenerationTesterMixin, which transformers' source distribution lacks")
    def test_generation_tester_mixin_inheritance(self):
        pass


class ArmVQModelTester:
    """Pictures for a tiny tokenizer."""

    is_training = True
    batch_size = 3
    seq_length = 3 * 4  # the grid of a 48 x 64 picture
    hidden_size = SIZE["hidden_size"]
    num_hidden_layers = 2  # one before the quantizer, one after it
    num_attention_heads = SIZE["num_attention_heads"]

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> ArmVQConfig:
        return vq_config()

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, 48, 64, device=torch_device) * 2 - 1}


class ArmVQModelTest(ArmTesterMixin, unittest.TestCase):
    all_model_classes = (ArmVQModel,)

    def setUp(self):
        if "test_eager_matches_sdpa_inference" in self._testMethodName and "bf16" in self._testMethodName:
            self.skipTest("In bf16 eager and sdpa differ enough to turn a sign near zero, and so to give another code")
        self.model_tester = ArmVQModelTester(self)

    def test_config(self):
        fields = {"num_projection_layers": 3, "fsq_levels": [8, 5, 5, 5]}
        ConfigTester(self, config_class=ArmVQConfig, has_text_modality=False, **fields).run_common_tests()

    @unittest.skip("The tokenizer reads pictures: it has no nn.Embedding to get or set")
    def test_model_get_set_embeddings(self):
        pass

    @unittest.skip("The tokenizer reads pictures: it has no vocabulary to resize")
    def test_resize_tokens_embeddings(self):
        pass

    @unittest.skip("It has batches of text only; the tokenizer's losses are ArmVQForPreTraining's")
    def test_training_overfit(self):
        pass
