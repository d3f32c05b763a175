"""Parts of `scripts/fuzz.py`. `world` makes the sound plates, runs and files that mutations begin from, `commands` and
`programs` what is run on them, and `facts` what is found out of both; `tokens`, `documents`, `files`, `schemas`,
`torch_files` and `safetensors_files` mutate; `plates`, `saved`, `foreign`, `settings`, `places` and `pixels` make a
`trial` of each category's cases. `run` starts one in a `child` with limits and looks by `snapshot` at what it changed,
`oracles` judge what was accepted, `verdict` names the faults; `harness` runs all cases, and `table` counts."""
