"""`python -m transformers_arm`: the `transformers-arm` command."""

import sys

from .cli import main

sys.exit(main())
