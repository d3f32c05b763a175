"""What `scripts/bench_train.py`, `bench_predict.py` and `bench_data.py` share. Each side of a comparison is a process
of its own (`train_vsjax.py`, `train_viscy.py`, ...) that prepares its work and repeats it when told (`side.py`): its
peak memory is its own. `rounds.py` starts both sides and lets them take turns, so that what else the machine does hits
both; `report.py` prints, writes JSON and makes the lines of the table in `docs/speed.md`; `families.py` is the
dictionary to which a new family adds one entry. The modules named `viscy` import PyTorch and VisCy and nothing of JAX,
and run in the Python that `--peer-python` names; those named `vsjax` import JAX; all others neither."""
