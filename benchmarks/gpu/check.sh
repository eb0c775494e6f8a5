#!/usr/bin/env bash
# One prepared check of what a GPU changes, in six minutes: same tokens and their speed, training, scores, GRPO.
#
#     benchmarks/gpu/check.sh [--output FOLDER] [--limit SECTION=SECONDS] [--toy] [SECTION ...]
#
# Sections: decoding training scores grpo, which run unless others are named, renderers and suite (transformers' own
# model tests).
# Needs torch and transformers, and no network. What else is missing comes from wheels beside it: WHEELS names their
# folder (default .whl), SITE where they are unpacked. For the suite it holds transformers' source distribution as well.
# Without a GPU, or with CHECK_TOY=1, every section but the suite runs at toy size. benchmarks/gpu/check.py has the rest.
set -euo pipefail

cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-.whl} SITE=${SITE:-${TMPDIR:-/tmp}/transformers-arm-site}
NEEDED="accelerate datasets diffusers docstring_parser evaluate peft pydantic trl yaml"
case " $* " in *" suite "*) NEEDED="$NEEDED parameterized pytest" ;; esac

has_all() { # is everything of NEEDED importable?
    "$PYTHON" -c 'import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))' $NEEDED
}

# The repository stands first, before a wheel of it.
export PYTHONPATH="$PWD/src:$PWD/benchmarks/speed${PYTHONPATH:+:$PYTHONPATH}"
if ! has_all; then
    export PYTHONPATH="$PYTHONPATH:$SITE"
    if ! has_all; then
        ! compgen -G "$WHEELS/*.whl" >/dev/null ||
            "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$SITE" "$WHEELS"/*.whl
    fi
    has_all || { echo "Some of $NEEDED are neither installed nor among $WHEELS/*.whl; add their wheels." >&2; exit 2; }
fi

# The tests of transformers are in its source distribution only.
for sources in "$WHEELS"/transformers-*.tar.gz; do
    name=$(basename "$sources" .tar.gz)
    [ ! -e "$sources" ] || [ -e ".cache/$name/tests" ] || { mkdir -p .cache; tar -xzf "$sources" -C .cache "$name/tests"; }
done

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_EVALUATE_OFFLINE=1 TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1
exec "$PYTHON" benchmarks/gpu/check.py "$@"
