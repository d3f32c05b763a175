#!/usr/bin/env bash
# The environment, the style checks and the tests; further arguments go to pytest (`bash scripts/test.sh -m slow`).
source "$(dirname "$0")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
if [ $# -eq 0 ]; then
    set -- -m "not slow"
fi
exec .venv/bin/python -m pytest -n 2 "$@"
