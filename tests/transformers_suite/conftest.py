"""Makes the tests of the installed transformers release importable as `transformers_tests`.

`make test-transformers` fetches them; the release's source distribution lacks some modules that they import, which are
stubbed here with what the model tests need of them.
"""

import sys
import types
from pathlib import Path

import transformers

TESTS = Path(__file__).parents[2] / ".cache" / f"transformers-{transformers.__version__}" / "tests"
STUBS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},  # unread where a config has sub-configs, as ours
}
MARKERS = ("accelerate_tests", "is_training_test", "torch_compile_test")
MARKERS += ("flash_attn_test", "flash_attn_3_test", "flash_attn_4_test")


def add_module(name: str, **content) -> None:
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(content)


def pytest_configure(config):
    if not (TESTS / "test_modeling_common.py").is_file():
        raise FileNotFoundError(f"{TESTS} lacks transformers' tests; `make test-transformers` fetches them.")
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' own suite")
    (TESTS / "__init__.py").touch()  # lacking too, and executed by one of the tests' modules
    add_module("transformers_tests", __path__=[str(TESTS)])
    for name, content in STUBS.items():
        add_module(f"transformers_tests.{name.partition('.')[0]}", __path__=[])
        add_module(f"transformers_tests.{name}", **content)
