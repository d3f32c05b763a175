#!/usr/bin/env bash
# From nothing to stained images: environment, a simulated plate, statistics, training, staining, evaluation, pictures.
# Everything lands in demo/ (or the folder given); run again, it goes on where it stopped.
source "$(dirname "$0")/environment.sh"
out=${1:-demo}
python=.venv/bin/python
step() { printf '\n== %s\n' "$*"; "$@"; }

if [ ! -f "$out/simulated" ]; then
    step "$python" -m vsjax.simulate --output "$out/cells.zarr" --positions 16 --seed 0 --overwrite
    touch "$out/simulated"
fi
step "$python" -m vsjax.preprocess --plate "$out/cells.zarr"
step "$python" -m vsjax.train --config configs/demo.py --workdir "$out/run" --config.data.plates="$out/cells.zarr"
step "$python" -m vsjax.predict --checkpoint "$out/run" --input "$out/cells.zarr" --output "$out/stained.zarr" \
    --positions A/1/0 A/1/1 --overwrite
step "$python" -m vsjax.evaluate --prediction "$out/stained.zarr" --target "$out/cells.zarr" --source BF \
    --output "$out/report" --overwrite
echo
echo "Pictures: $out/run/images (during training) and $out/report (A/1/0 and A/1/1, which were not trained on)"
