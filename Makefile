VENV := .venv
PYTHON := $(VENV)/bin/python
CONSTRAINTS := constraints/cpu.txt
INSTALLED := $(VENV)/.installed
TOOLS := .cache/tools
GRADIO := .cache/gradio

# Its weights, once they are there: without them what is about arm-emoji is left out.
ARM_EMOJI := $(wildcard checkpoints/arm-emoji/config.json)

# Pictures for `make demo`, as the shell reads them: quote names with spaces once more.
IMAGES ?=

.DEFAULT_GOAL := help
.PHONY: help install demo app test test-slow test-transformers test-app emoji-data train-tiny train-tiny-rl cards ablation lint
.PHONY: dist test-quantized test-versions test-wheel test-sdist docs clean

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED) ## Make .venv with the package, its training and its development tools

# The stamp makes a second call return at once, and a change of dependencies install again.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	test -x $(PYTHON) || python3.11 -m venv $(VENV) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e ".[train,dev]"
	touch $@

demo app test test-app test-slow test-quantized test-transformers: export HF_HUB_OFFLINE := 1

# A process a core with a thread each: more threads would wait for each other. Tests of a file share what they load.
test test-transformers: export OMP_NUM_THREADS := 1
PYTEST := $(PYTHON) -m pytest
IN_PARALLEL := --numprocesses 2 --dist loadfile

demo: install ## Show what arm-tiny and arm-emoji do, offline: make demo IMAGES="a.png 'my photo.jpg'"
	$(PYTHON) -m transformers_arm demo $(if $(strip $(IMAGES)),--images $(IMAGES))
	$(if $(ARM_EMOJI),$(PYTHON) -m transformers_arm demo --checkpoint $(dir $(ARM_EMOJI)) --world emoji --items 20 \
		--output demo/emoji)
	@echo; echo "To draw, edit, ask and tell stories in a browser: make app, and open the address that it prints."

# Beside .venv, not in it: Gradio holds back the version of Pillow.
$(GRADIO)/.installed: pyproject.toml $(INSTALLED)
	rm -rf $(GRADIO)
	$(PYTHON) -m pip install --disable-pip-version-check -c $(CONSTRAINTS) --target $(GRADIO) "gradio>=6.31,<7" \
		"selenium>=4.30"
	touch $@

app: $(GRADIO)/.installed ## Show a page to draw, edit, ask and tell stories with arm-tiny in a browser
	PYTHONPATH=$(GRADIO) $(PYTHON) -m transformers_arm app

test: install ## Run the tests, without the slow ones
	$(PYTEST) $(IN_PARALLEL)

test-slow: install ## Run the slow tests only
	$(PYTEST) -m slow

# Beside .venv, not in it: diffusers imports bitsandbytes wherever it is, which then says what it lacks on a CPU.
test-quantized: install ## Run the tests of 4 and 8 bits, with bitsandbytes and torchao in folders of their own
	for each in bitsandbytes torchao; do test -d .cache/$$each || $(PYTHON) -m pip install --disable-pip-version-check \
		--no-deps --target .cache/$$each $$each || exit 1; done
	PYTHONPATH=.cache/bitsandbytes $(PYTEST) tests/sizes/test_adapters.py tests/sizes/test_memory.py \
		tests/modeling_arm/test_precision.py
	PYTHONPATH=.cache/torchao $(PYTEST) tests/test_renderers_arm.py

# Only transformers' source distribution holds its tests. Those it calls slow want a GPU, and say so where there is none.
test-transformers: export RUN_SLOW := 1
test-transformers: install ## Run transformers' own model tests on ARM's models; pip fetches them once
	set -e; version=$$($(PYTHON) -c "from importlib.metadata import version; print(version('transformers'))"); \
	sources=.cache/transformers-$$version; \
	if ! test -e $$sources/.fetched; then \
		$(PYTHON) -m pip download --disable-pip-version-check --no-deps --no-binary transformers --dest .cache \
			transformers==$$version; \
		tar -xzf $$sources.tar.gz -C .cache transformers-$$version/tests; \
		touch $$sources/.fetched; \
	fi
	$(PYTEST) --numprocesses 2 -m "" tests/transformers_suite

test-app: $(GRADIO)/.installed ## Use the page in a headless Chromium, which apt installs where there is none
	.ci/browser
	PYTHONPATH=$(GRADIO) $(PYTEST) tests/app

emoji-data: install ## Fetch emoji of three styles with npm, and draw them into runs/emoji/data
	$(PYTHON) -m transformers_arm.worlds.emoji.prepare runs/emoji/data
	$(PYTHON) -m transformers_arm.worlds.emoji.pictures runs/emoji/data

train-tiny: install ## Train arm-tiny from nothing, stage by stage, and export it
	$(PYTHON) trainers/backbones.py --config arm_tiny/backbones
	$(PYTHON) trainers/tokenizer.py --config arm_tiny/tokenizer
	$(PYTHON) trainers/tokenizer.py --config arm_tiny/tokenizer_detail
	$(PYTHON) trainers/tokenizer.py --config arm_tiny/tokenizer_context
	$(PYTHON) trainers/detokenizer.py --config arm_tiny/detokenizer
	$(VENV)/bin/torchrun --nproc_per_node 2 trainers/pretrain.py --config arm_tiny/pretrain
	$(VENV)/bin/torchrun --nproc_per_node 2 trainers/pretrain.py --config arm_tiny/continual
	$(VENV)/bin/torchrun --nproc_per_node 2 trainers/sft.py --config arm_tiny/sft
	$(PYTHON) benchmarks/quality/stages.py $(foreach stage,pretrain continual sft,$(stage)=runs/arm-tiny/$(stage)/model) \
		--detokenizer runs/arm-tiny/detokenizer/detokenizer --output benchmarks/results/arm_tiny_stages.json
	$(PYTHON) hub_cards/export_tiny.py

# One process with one thread is quickest at this size; run it beside something else on the other core.
train-tiny-rl: export OMP_NUM_THREADS := 1
train-tiny-rl: install ## Reinforcement learning of arm-tiny: text-to-image, editing, joint; scores and exports it
	$(PYTHON) trainers/grpo.py --config arm_tiny/grpo_text_to_image
	$(PYTHON) trainers/grpo.py --config arm_tiny/grpo_editing
	$(PYTHON) trainers/grpo.py --config arm_tiny/grpo_joint
	$(PYTHON) benchmarks/quality/grpo.py --before checkpoints/arm-tiny --after runs/arm-tiny/grpo_joint/model \
		--output benchmarks/results/arm_tiny_rl.json
	$(PYTHON) hub_cards/export_tiny_rl.py --results benchmarks/results/arm_tiny_rl.json --run \
		$(foreach stage,text_to_image editing joint,grpo_$(stage)=runs/arm-tiny/grpo_$(stage))

cards: install ## Write the cards in checkpoints/ anew, from the results that lie beside them
	$(PYTHON) hub_cards/export_tiny.py --card-only
	$(PYTHON) hub_cards/export_tiny_rl.py --card-only
	$(if $(ARM_EMOJI),$(PYTHON) hub_cards/export_emoji.py --card-only)

ablation: install ## Train the tokenizer with and without its losses, three seeds each, and print what each loss earns
	$(PYTHON) benchmarks/quality/ablation.py --output benchmarks/results/ablation.json

lint: install ## Check style and formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# What builds distributions and the site has an environment of its own; pip reads its dependency group from 25.1 on.
$(TOOLS)/.installed: pyproject.toml
	test -x $(TOOLS)/bin/python || python3 -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --disable-pip-version-check --upgrade "pip>=25.1"
	$(TOOLS)/bin/python -m pip install --group tools
	touch $@

dist: $(TOOLS)/.installed ## Build the source distribution and the wheel into dist/, and check their metadata
	rm -rf dist
	$(TOOLS)/bin/python -m build
	$(TOOLS)/bin/python -m twine check --strict dist/*

# Takes minutes: torch is installed once more.
test-wheel: dist ## Install the wheel elsewhere, and train, draw, edit and ask with it
	.ci/test-wheel dist/*.whl

# Takes a quarter of an hour: torch is installed twice.
test-versions: dist install ## Run every command of the wheel, at its lowest and its newest versions, without and with extras
	.ci/test-versions dist/*.whl

# Takes as long as `make install` and `make test`: nothing of this folder is used.
test-sdist: dist ## Unpack the source distribution elsewhere, and run its own tests there
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	tar -xzf dist/*.tar.gz -C "$$folder" --strip-components 1; \
	$(MAKE) -C "$$folder" test

docs: $(TOOLS)/.installed ## Build the documentation and the API reference as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/python -m mkdocs build --strict

clean: ## Remove caches, builds and the demo's output; keep .venv and runs/
	rm -rf build dist site demo src/*.egg-info .cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
