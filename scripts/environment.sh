# Sourced by the other scripts: a virtual environment in .venv with vsjax, its test tools and pinned versions.
# VSJAX_EXTRAS=cuda (or tpu) adds an accelerator's JAX.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    echo "vsjax needs Python 3.11 to 3.13; set PYTHON to one of them" >&2
    exit 1
fi
# The stamp holds what was installed, so that a second run starts at once and a change of the pins is noticed.
stamp=.venv/installed
wanted=$(cat setup.py scripts/constraints.txt; echo "${VSJAX_EXTRAS:-}")
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    "$PYTHON" -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet --constraint scripts/constraints.txt --editable ".[dev${VSJAX_EXTRAS:+,$VSJAX_EXTRAS}]"
    printf '%s\n' "$wanted" > "$stamp"
fi
