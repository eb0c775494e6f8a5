"""The frame holds: packaging agrees with the code, rooms import only what lies below them, files name no machine."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transformers_arm"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room imports from itself and from those before it. docs/layout.md says what is in each.
ROOMS = (
    "extras",
    "whole_files",
    "configuration_arm",
    "attention_arm",
    "grammar_arm",
    "loading_arm",
    "sampling_arm",
    "short_steps_arm",
    "decoding_arm",
    "prompts_arm",
    "generation_arm",
    "loss_arm",
    "image_tokens_arm",
    "modeling_arm_vq",
    "pixel_transformer_arm",
    "detokenizer_arm",
    "detokenizer_arm_pixel",
    "connector_arm",
    "detokenizer_arm_latent",
    "detokenizer_arm_flux2",
    "detokenizer_arm_flux",
    "detokenizer_arm_sana",
    "renderers_arm",
    "remote_renderers_arm",
    "rendering_arm",
    "modeling_arm",
    "modeling_arm_vq_pretraining",
    "fetching_arm",
    "image_processing_arm",
    "written_text_arm",
    "processing_arm",
    "data",
    "previews_arm",
    "edits_arm",
    "pipeline_arm",
    "interleaved_pipeline_arm",
    "registering",
    "diffusers_pipeline_arm",
    "metrics",
    "rewards",
    "sizes",
    "hub",
    "evaluation",
    "training",
    "serving",
    "worlds",
    "cli",
    "__main__",
    "__init__",
)
# Which draw a world, read it back or tell of it, and know nothing of models.
PLAIN = {
    "shapes": (
        *("scene", "draw", "references", "captions", "edits", "questions", "items", "prompts", "reader", "scores"),
        "__init__",
    ),
    "emoji": ("catalog", "twins", "splits", "articles", "captions", "__init__"),
}
NEVER_IMPORTED = {"torchvision", "open_clip", "lmms_eval", "trainers", "benchmarks", "tests"}

# Links may lead to these hosts only, so that no mirror, package registry or machine slips in.
LINK_HOSTS = {
    "127.0.0.1",
    "169.254.169.254",
    "arxiv.org",
    "creativecommons.org",
    "example.com",
    "github.com",
    "huggingface.co",
    "keepachangelog.com",
    "localhost",
    "semver.org",
    "www.apache.org",
    "www.w3.org",
}
# Hosts with a dot, behind a user and password; names under example.com are nobody's.
LINK = re.compile(r"https?://(?:[^/\s\"'`@]*@)?(?![\w.-]*\.example\.com\b)([\w-]+(?:\.[\w-]+)+)")
REGISTRY_OPTION = re.compile(r"--(?:(?:extra-)?index-url|find-links|trusted-host)")
MACHINE_PATH = re.compile(r"(?<![\w.~}/-])/(?:home|root|Users|mnt|opt|tmp|work|workspace)/[\w.-]+")


def room_of(path: Path) -> str:
    """The room a source file belongs to: `shapes/draw.py` -> `shapes`, `modeling_arm.py` -> `modeling_arm`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Absolute dotted names of all a file imports, at any depth; names taken from a package itself are appended."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *filter(None, [node.module])])
            names = [alias.name for alias in node.names] if origin == PACKAGE.name else [None]
            modules.update(f"{origin}.{name}" if name else origin for name in names)
    return modules


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports; a public name counts as the roof, which re-exports it."""
    rooms = set()
    for module in imported_modules(path):
        top, _, rest = module.partition(".")
        if top == PACKAGE.name:
            room = rest.partition(".")[0]
            is_room = (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()
            rooms.add(room if room and is_room else "__init__")
    return rooms


def imported_libraries(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imported_modules(path)} - {PACKAGE.name, *sys.stdlib_module_names}


def source_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def repository_texts():
    """Every text file git knows or would add, as (path, text)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            yield name, content.decode("utf-8")


def test_installed_version_is_the_package_version():
    import transformers_arm

    installed = metadata.version("transformers-arm")
    assert installed == transformers_arm.__version__, "the installed metadata is stale: run `make -B install`"


def test_extras_are_the_documented_ones():
    extras = metadata.metadata("transformers-arm").get_all("Provides-Extra")
    assert set(extras) == {"train", "rl", "metrics", "emoji", "serve", "app", "flash", "qlora", "dev"}


@pytest.mark.parametrize("library", ["torchvision", "trl", "diffusers.models"])
def test_importing_the_package_does_not_import(library):
    check = f"import sys, transformers_arm; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_every_public_name_is_there():
    import transformers_arm

    assert all(hasattr(transformers_arm, name) for name in transformers_arm.__all__)
    assert not hasattr(transformers_arm, "ArmPPOTrainer")


def test_trainers_say_what_to_install_where_trl_is_missing():
    check = (
        "import sys; sys.modules['trl'] = None\n"
        "import transformers_arm\n"
        "try: transformers_arm.ArmGRPOTrainer\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert "ArmGRPOTrainer needs trl; install it with `pip install transformers-arm[rl]`" in said


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_imports_point_one_way(path):
    room = room_of(path)
    upwards = {each for each in imported_rooms(path) if ROOMS.index(each) > ROOMS.index(room)}
    assert not upwards, f"{room} stands before {sorted(upwards)} in ROOMS"
    assert not imported_libraries(path) & NEVER_IMPORTED


def test_every_room_has_its_place_and_its_line_in_the_docs():
    assert {room_of(path) for path in SOURCES} == set(ROOMS)
    layout = (ROOT / "docs" / "layout.md").read_text()
    order = [re.search(rf"\| `{room}(/|\.py)?`", layout).start() for room in ROOMS if not room.startswith("__")]
    assert order == sorted(order)


def test_nothing_outside_worlds_imports_worlds():
    """Worlds are found by name. What may name one: scripts outside of the package, and the demo by its default."""
    assert not {source_id(path) for path in SOURCES if room_of(path) != "worlds" and "worlds" in imported_rooms(path)}


def test_at_the_root_lies_only_what_a_hub_repo_carries():
    others = {"__init__.py", "__main__.py", "extras.py", "registering.py", "whole_files.py"}
    assert all(path.match("*_arm*.py") or path.name in others for path in PACKAGE.glob("*.py"))


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, names in PLAIN.items() for name in names])
def test_drawing_reading_and_telling_of_a_world_needs_only_numpy_and_pillow(world, name):
    path = PACKAGE / "worlds" / world / f"{name}.py"
    siblings = {f"{PACKAGE.name}.worlds.{world}.{each}" for each in PLAIN[world]}
    assert {module for module in imported_modules(path) if module.startswith(PACKAGE.name)} <= siblings
    assert imported_libraries(path) <= {"numpy", "PIL"}


@pytest.mark.parametrize("path", SOURCES, ids=source_id)
def test_no_file_is_longer_than_500_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*_arm*.py")), ids=source_id)
def test_remote_code_imports_flat_siblings_by_name(path):
    """Remote code is copied file by file: only `from .sibling import name` finds its way to the Hub."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"line {node.lineno}: name the sibling, `from .sibling import ...`"
            assert (PACKAGE / f"{node.module}.py").is_file(), f"line {node.lineno}: {node.module} is not a flat file"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert PACKAGE.name not in {name.partition(".")[0] for name in names}, f"line {node.lineno}: absolute"


def test_no_file_names_a_registry_or_a_machine():
    findings = []
    for name, text in repository_texts():
        found = [
            *REGISTRY_OPTION.findall(text),
            *MACHINE_PATH.findall(text),
            *sorted(set(LINK.findall(text)) - LINK_HOSTS),
        ]
        findings += [(name, what) for what in found]
    assert not findings
