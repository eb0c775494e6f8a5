"""Every code block of the README and of docs/ does what its page says.

The blocks of a page run in order, in one namespace and one folder, which holds what the page says a user has. What a
line `print(...)  # so` prints is compared, and so is a `text` block with what the shell block before it printed. A
block under a line that ends in "`a_file`:" is written to that file. No block warns its user of anything.
"""

import contextlib
import csv
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from emoji_packages import PACKAGES
from PIL import Image
from pydantic import create_model
from sybil import Document, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from transformers_arm.cli import new_parser
from transformers_arm.training.recipe import Section, explained_values, load_yaml
from transformers_arm.training.stages import STAGES, find_stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_EXEMPT = 6
EXEMPT = re.compile(r"\*Not run by the documentation's tests: [^*]+\*\n\n\Z")
ALONE = re.compile(r"<!-- a process of its own, without transformers_arm -->\n\Z")
FILE = re.compile(r"`([\w./-]+)`:\n\n\Z")
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
SECONDS = 300  # that a shell block may take; it takes a few, where nothing else runs
LOGGERS = ("transformers", "diffusers", "datasets", "huggingface_hub", "accelerate", "peft", "trl", "py.warnings")
UNSEEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # where Python hides them
WARNED = re.compile(r"^.*(?:warn|deprecated|traceback).*$", re.IGNORECASE | re.MULTILINE)


def page_id(page):
    return page.relative_to(ROOT).as_posix()


# --- blocks ----------------------------------------------------------------------------------------------------------


def blocks(document):
    """The fenced blocks of a page that state a language, with what stands before each; see `Reader`."""
    for region in FencedCodeBlockLexer(language=r"\w+")(document):
        yield region, document.text[: region.start]


def is_exempt(before):
    return EXEMPT.search(before) is not None


class Told(logging.Handler):
    """What a user would be warned of meanwhile: by `warnings`, and by the libraries' logs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        self.caught = warnings.catch_warnings(record=True)
        self.warned = self.caught.__enter__()
        warnings.simplefilter("default")
        for category in UNSEEN:
            warnings.simplefilter("ignore", category)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *error):
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        self.caught.__exit__(*error)
        self.lines += [f"{each.filename}: {each.category.__name__}: {each.message}" for each in self.warned]


class Reader:
    """A parser of sybil's: the blocks of a page with what runs or checks each, in a folder.

    Args:
        folder: of the page.
        alone: runs Python code in a process without the package.
    """

    def __init__(self, folder, environment, alone=None):
        self.folder, self.environment, self.alone = folder, environment, alone
        self.python = PythonEvaluator()
        self.printed = None

    def __call__(self, document):
        for region, before in blocks(document):
            if is_exempt(before):
                continue
            language, source = region.lexemes["language"], region.lexemes["source"]
            evaluate = getattr(self, f"run_{language}")
            if language == "python" and ALONE.search(before):
                evaluate = self.run_alone
            if named := FILE.search(before):
                evaluate = self.written(named[1], evaluate)
            yield Region(region.start, region.end, source, evaluate)

    def written(self, name, evaluate):
        def write(example):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(example.parsed)
            return evaluate(example)

        return write

    def run_python(self, example):
        with contextlib.redirect_stdout(io.StringIO()) as out, Told() as told:
            self.python(example)
        if told.lines:
            return f"warned of {told.lines}"
        expected, printed = PRINTED.findall(example.parsed), out.getvalue().splitlines()
        if missing := [line for line in expected if line not in printed]:
            return f"printed {printed}, not {missing}"

    def run_alone(self, example):
        done = self.alone(example.parsed)
        return done.returncode and done.stderr

    def run_bash(self, example):
        command = ["bash", "-euo", "pipefail", "-c", example.parsed]
        streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": SECONDS}
        done = subprocess.run(command, cwd=self.folder, env=self.environment, **streams)
        self.printed = done.stdout
        if done.returncode:
            return f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        told = [line.rpartition("\r")[2] for line in WARNED.findall(done.stderr)]
        return told and f"warned of {told}"

    def run_text(self, example):
        return self.printed != example.parsed and f"the command printed {self.printed!r}"

    def run_yaml(self, example):
        values = load_yaml(example.parsed, "the block")
        problems = {stage: recipe_problems(stage, values) for stage in STAGES}
        return all(problems.values()) and f"it fits the recipes of no stage: {problems}"

    def run_csv(self, example):
        header, *rows = csv.reader(io.StringIO(example.parsed))
        return any(len(row) != len(header) for row in rows) and f"not all rows have {len(header)} cells"

    def run_toml(self, example):
        tomllib.loads(example.parsed)

    def run_dockerfile(self, example):
        """It is not built; what it starts is a command that there is."""
        name, *arguments = json.loads(re.search(r"^CMD (.*)$", example.parsed, re.MULTILINE)[1])
        parser = new_parser()
        return parser.prog != name or parser.parse_args(arguments).command != "serve"


def recipe_problems(stage, values):
    """What is wrong with a recipe of a stage, or with sections of one: places, and what is wrong there."""
    kind = find_stage(stage)[0]
    if "output_dir" in values:  # a whole one
        return explained_values(kind, values)
    known = {name: (field.annotation, field) for name, field in kind.model_fields.items() if name in values}
    return explained_values(create_model("Part", __base__=Section, **known), values)


# --- what a user has -------------------------------------------------------------------------------------------------


def furnish(folder):
    """Puts into a folder what lies in a checkout, as links, and pictures of a user."""
    for name in ("checkpoints", "trainers", "examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "runs" / "emoji").mkdir(parents=True)
    (folder / "runs" / "emoji" / "packages").symlink_to(PACKAGES)  # as if npm had fetched them
    sizes = {"my_pictures/cat.png": (64, 48), "my_pictures/dog.jpg": (100, 80), "my_questions/cat.png": (64, 48)}
    sizes |= {"my_edits/before/1.png": (48, 48), "my_edits/after/1.png": (48, 48)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(size, 60).convert("RGB").save(folder / name)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of a page, where this process works, and the environment of its commands."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARM_EMOJI_DATA", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".huggingface" / "datasets")
    torch.manual_seed(0)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "HF_HOME": str(tmp_path / ".huggingface"), "OMP_NUM_THREADS": "1"}
    yield tmp_path, {**os.environ, **own}
    for file in tmp_path.glob("*.pid"):  # of what a page starts, and does not end where a block before that fails
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGTERM)


# --- tests -----------------------------------------------------------------------------------------------------------


RUN = [
    pytest.param(page, marks=pytest.mark.slow if page.name == "own-pictures.md" else ())  # five trainings
    for page in PAGES
    if page.name != "hub.md"
]


@pytest.mark.parametrize("page", RUN, ids=page_id)
def test_the_code_of_a_page_runs(page, place):
    for example in Document.parse(str(page), Reader(*place)):
        example.evaluate()


def test_the_code_about_the_hub_runs(place, hub):
    folder, environment = place
    online = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    environment = {name: value for name, value in environment.items() if not name.endswith("_OFFLINE")} | online
    reader = Reader(folder, environment, lambda code: hub.run(code, package=False, cache=folder / ".alone"))
    for example in Document.parse(str(ROOT / "docs" / "hub.md"), reader):
        example.evaluate()


def test_no_block_is_left_out_but_a_few():
    exempt = []
    for page in PAGES:
        document = Document(page.read_text(), str(page))
        found = list(blocks(document))
        assert 2 * len(found) == len(re.findall(r"^ *(?:```|~~~)", document.text, re.MULTILINE)), page
        exempt += [(page.name, region.lexemes["source"]) for region, before in found if is_exempt(before)]
    assert len(exempt) <= MOST_EXEMPT, exempt


@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        ("```python\nprint(1 + 1)  # 3\n```", "printed"),
        ("```bash\nfalse\ntrue\n```", "exit status 1"),
        ("```bash\necho UserWarning: old >&2\n```", "warned of .*UserWarning: old"),
        ('```python\nimport warnings\nwarnings.warn("old", FutureWarning)\n```', "warned of .*FutureWarning: old"),
        ('```python\nimport logging\nlogging.getLogger("trl.x").warning("old")\n```', "warned of .*old"),
        ("```bash\necho 1\n```\n\n```text\n2\n```", "the command printed '1"),
        ("```yaml\ntraining: {max_step: 2}\n```", "did you mean max_steps"),
        ("```csv\na,b\n1\n```", "not all rows have 2 cells"),
    ],
)
def test_what_is_wrong_in_a_block_is_found(block, wrong, tmp_path, place):
    (tmp_path / "page.md").write_text(block + "\n")
    with pytest.raises(AssertionError, match=wrong):
        for example in Document.parse(str(tmp_path / "page.md"), Reader(*place)):
            example.evaluate()


def test_a_block_that_is_a_file_is_written(tmp_path, place):
    (tmp_path / "page.md").write_text(
        "Save `a/b.csv`:\n\n```csv\nc\n```\n\n```bash\ncat a/b.csv\n```\n\n```text\nc\n```\n"
    )
    for example in Document.parse(str(tmp_path / "page.md"), Reader(*place)):
        example.evaluate()
