"""Orbax checkpoints that describe themselves.

    runs/a/checkpoints/last/STEP/   parameters, moving average, optimiser, description: what a restart needs
    runs/a/checkpoints/best/STEP/   the same at the best validation so far, without the optimiser

Orbax writes a step under a temporary name and renames it when it is whole, so a killed run leaves no half checkpoint
that could be mistaken for one. The data iterator is a function of the step (`{"next_index": step}`), which is why it
is stored as the step alone and restores onto any number of processes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from vsjax.disk import writing
from vsjax.errors import UserError
from vsjax.version import __version__

KINDS = ("best", "last")


@dataclass(frozen=True)
class Checkpoint:
    """What prediction needs.

    Attributes:
        config: the experiment's configuration; `config["model"]` builds the module.
        variables: `{"params": ..., "batch_stats": ...}`: the moving average where the run kept one.
        description: version, step, channels, pixel size in µm (z, y, x), normalisation and dataset statistics.
        path: the step's folder.
    """

    config: dict[str, Any]
    variables: dict[str, Any]
    description: dict[str, Any]
    path: str


class CheckpointStore:
    """Saves and restores the checkpoints of one run, asynchronously.

    Saving raises WriteError where the disk does not take the checkpoint, or did not take the one before; what was whole
    stays so.
    """

    def __init__(self, workdir: str | Path) -> None:
        folder = Path(workdir).absolute() / "checkpoints"
        self._managers = {kind: _manager(folder / kind) for kind in KINDS}

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None where there is none."""
        return self._managers["last"].latest_step()

    def save_last(self, step: int, state: Any, description: dict[str, Any]) -> None:
        """Save everything a restart needs; `state` has `variables`, `average` and `optimizer`."""
        self._save(
            "last", step, description, variables=state.variables, average=state.average, optimizer=state.optimizer
        )

    def save_best(self, step: int, state: Any, description: dict[str, Any]) -> None:
        """Save what prediction needs as the best so far."""
        self._save("best", step, description, variables=state.variables, average=state.average)

    def _save(self, kind: str, step: int, description: dict[str, Any], **trees: Any) -> None:
        manager = self._managers[kind]
        if step in manager.all_steps():  # a resumed run reaches a step that it had saved before it was killed
            return
        self.wait()  # several processes can save one thing at a time: Orbax names its barriers after nothing
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items() if jax.tree.leaves(tree)}
        record = {"vsjax_version": __version__, "step": step, **description}
        with writing(manager.directory):
            manager.save(step, args=ocp.args.Composite(description=ocp.args.JsonSave(record), **items), force=True)

    def restore_last(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """The state and the description at `step`; `state` holds `jax.ShapeDtypeStruct`s with shardings.

        Raises:
            UserError: the checkpoint is of another model or optimiser.
        """
        manager = self._managers["last"]
        parts = {"variables": state.variables, "average": state.average, "optimizer": state.optimizer}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in parts.items() if jax.tree.leaves(tree)}
        description = read_description(Path(manager.directory) / str(step))
        found = set(manager.item_metadata(step).keys()) - {"description", "metrics"}
        stored = {name: _shapes(manager.item_metadata(step)[name]) for name in found & set(items)}
        expected = {name: _shapes(parts[name]) for name in items}
        if differences := _differences(expected, stored):
            raise UserError(
                f"{Path(manager.directory) / str(step)}: the checkpoint is of another model or optimiser "
                f"({differences}); use another --workdir, or the configuration in its description"
            )
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        return state.replace(**{name: restored[name] for name in items}), description

    def wait(self) -> None:
        """Block until everything saved is on disk. WriteError where the disk does not take it."""
        for manager in self._managers.values():
            with writing(manager.directory):
                manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the threads."""
        self.wait()
        for manager in self._managers.values():
            manager.close()


def can_go_on(workdir: str | Path) -> bool:
    """Whether the run in `workdir` has a whole checkpoint to go on from."""
    return bool(_steps(Path(workdir).absolute() / "checkpoints" / "last"))


def load_checkpoint(path: str | Path, which: str | None = None) -> Checkpoint:
    """Read what prediction needs from a run's folder.

    Args:
        path: the run (`runs/a`).
        which: `"best"` or `"last"`; by default the best where the run validated, otherwise the last.

    Raises:
        UserError: there is no checkpoint, or it is half written.
    """
    folder = Path(path).absolute()
    if which is not None and which not in KINDS:
        raise UserError(f"--which={which!r} does not exist; choose one of {', '.join(KINDS)}")
    for kind in KINDS if which is None else (which,):
        if steps := _steps(folder / "checkpoints" / kind):
            return _load_step(folder / "checkpoints" / kind / str(max(steps)))
    wanted = which or "best or last"
    raise UserError(
        f"{folder}: no whole checkpoint ({wanted}) under checkpoints/; give the --workdir of a run of vsjax.train"
    )


def save_variables(path: str | Path, config: dict[str, Any], variables: Any, description: dict[str, Any]) -> None:
    """Write a checkpoint that did not come from a run, such as converted weights."""
    manager = _manager(Path(path).absolute() / "checkpoints" / "best")
    record = {"vsjax_version": __version__, "step": 0, **description, "config": config}
    items = {"variables": ocp.args.StandardSave(variables), "description": ocp.args.JsonSave(record)}
    manager.save(0, args=ocp.args.Composite(**items), force=True)
    manager.close()


def read_description(folder: Path) -> dict[str, Any]:
    """The description of the checkpoint in `folder` (one step's).

    Raises:
        UserError: the folder is not a whole checkpoint of vsjax.
    """
    path = folder / "description" / "metadata"
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(_half_written(folder, "description", error)) from error
    if not isinstance(description, dict) or "config" not in description or "model" not in description["config"]:
        raise UserError(f"{path}: field 'config.model' is missing, so this is not a checkpoint of vsjax")
    return description


def _load_step(folder: Path) -> Checkpoint:
    description = read_description(folder)
    config = description.pop("config")
    variables = _read_item(folder, "variables")
    if (folder / "average").is_dir():
        variables = {**variables, "params": _read_item(folder, "average")}
    return Checkpoint(config, variables, description, str(folder))


def _read_item(folder: Path, item: str) -> Any:
    """One item as arrays on this process's first device, whatever devices wrote it."""
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(folder / item).item_metadata
            if stored is None:
                raise ValueError("no metadata")
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), dict(stored)
            )
            return checkpointer.restore(folder / item, target)
        except (OSError, ValueError, KeyError, TypeError) as error:  # what Orbax raises for missing or cut files
            raise UserError(_half_written(folder, item, error)) from error


def _half_written(folder: Path, item: str, error: Exception) -> str:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return (
        f"{folder}: item '{item}' cannot be read ({reason}); the checkpoint is half written, take another step or run"
    )


def _manager(folder: Path) -> ocp.CheckpointManager:
    handlers = {name: ocp.StandardCheckpointHandler() for name in ("variables", "average", "optimizer")}
    with writing(folder):
        return ocp.CheckpointManager(
            folder,
            item_handlers={**handlers, "description": ocp.JsonCheckpointHandler()},  # to read another process's
            options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True),
        )


def _steps(folder: Path) -> list[int]:
    """Steps with a whole checkpoint: Orbax renames a step's folder to its number when everything is written."""
    return [int(child.name) for child in folder.iterdir() if child.name.isdigit()] if folder.is_dir() else []


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_plain_path(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _plain_path(path: tuple[Any, ...]) -> str:
    """A key path that reads the same for a named tuple and for the dictionary that Orbax stores it as."""
    names = [next(str(getattr(key, a)) for a in ("key", "name", "idx") if hasattr(key, a)) for key in path]
    return "/".join(names)


def _differences(expected: dict[str, dict], stored: dict[str, dict]) -> str:
    """The first difference in words, empty where there is none."""
    for item, shapes in expected.items():
        if item not in stored:
            return f"item '{item}' is missing"
        for name, shape in shapes.items():
            if name not in stored[item]:
                return f"'{name}' is missing"
            if stored[item][name] != shape:
                return f"'{name}' has shape {stored[item][name]} instead of {shape}"
        if extra := sorted(set(stored[item]) - set(shapes)):
            return f"'{extra[0]}' has no place in this model"
    return ""
