"""Parts of `scripts/fuzz.py`: `child` runs one program with limits, `snapshot` sees what it changed, `verdict` says what
is wrong with that, `tokens`, `documents`, `files`, `schemas`, `torch_files` and `safetensors_files` make mutations,
`world` makes the sound plates, runs and files that they begin from, `categories` and the modules beside it make a case
of each, `oracles` judge what is accepted, and `harness` runs all of them and prints the table."""
