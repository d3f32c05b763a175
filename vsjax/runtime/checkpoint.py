"""Orbax checkpoints that describe themselves.

    runs/a/checkpoints/last/STEP/   parameters, moving average, optimiser, auxiliary, description: what a restart needs
    runs/a/checkpoints/best/STEP/   the same at the best validation so far, without optimiser and auxiliary

Orbax writes a step under a temporary name and renames it when it is whole, so a killed run leaves no half checkpoint
that could be mistaken for one. The data iterator is a function of the step (`{"next_index": step}`), which is why it
is stored as the step alone and restores onto any number of processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from vsjax.disk import writing
from vsjax.errors import UserError
from vsjax.runtime.description import Description, read_description
from vsjax.tasks.state import with_average

KINDS = ("best", "last")
_TREES = ("variables", "average", "optimizer", "auxiliary")


@dataclass(frozen=True)
class Checkpoint:
    """What prediction needs.

    Attributes:
        description: what it says of itself.
        variables: `{"params": ..., "batch_stats": ...}`: the moving average where the run kept one.
        path: the step's folder.
    """

    description: Description
    variables: dict[str, Any]
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

    def save_last(self, state: Any, description: Description) -> None:
        """Save everything a restart needs; `state` has `variables`, `average`, `optimizer` and `auxiliary`."""
        self._save("last", description, {name: getattr(state, name) for name in _TREES})

    def save_best(self, state: Any, description: Description) -> None:
        """Save what prediction needs as the best so far."""
        self._save("best", description, {"variables": state.variables, "average": state.average})

    def _save(self, kind: str, description: Description, trees: dict[str, Any]) -> None:
        step = description.step
        manager = self._managers[kind]
        if step in manager.all_steps():  # a resumed run reaches a step that it had saved before it was killed
            return
        self.wait()  # several processes can save one thing at a time: Orbax names its barriers after nothing
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items() if jax.tree.leaves(tree)}
        items["description"] = ocp.args.JsonSave(description.to_json())
        with writing(manager.directory):
            manager.save(step, args=ocp.args.Composite(**items), force=True)

    def describe_last(self, step: int) -> Description:
        """The description at `step`; UserError where it cannot be read."""
        return describe_checkpoint(Path(self._managers["last"].directory) / str(step))

    def restore_last(self, step: int, state: Any) -> Any:
        """The state at `step`; `state` holds `jax.ShapeDtypeStruct`s with shardings.

        Raises:
            UserError: the checkpoint is of another model or optimiser.
        """
        manager = self._managers["last"]
        parts = {name: getattr(state, name) for name in _TREES}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in parts.items() if jax.tree.leaves(tree)}
        found = set(manager.item_metadata(step).keys()) - {"description", "metrics"}
        stored = {name: _shapes(manager.item_metadata(step)[name]) for name in found & set(items)}
        expected = {name: _shapes(parts[name]) for name in items}
        if differences := _differences(expected, stored):
            raise UserError(
                f"{Path(manager.directory) / str(step)}: the checkpoint is of another model or optimiser "
                f"({differences}); use another --workdir, or the configuration in its description"
            )
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        return state.replace(**{name: restored[name] for name in items})

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


def can_resume(workdir: str | Path) -> bool:
    """Whether the run in `workdir` has a whole checkpoint to resume from."""
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


def save_variables(path: str | Path, variables: Any, description: Description) -> None:
    """Write a checkpoint that did not come from a run, such as converted weights."""
    manager = _manager(Path(path).absolute() / "checkpoints" / "best")
    items = {"variables": ocp.args.StandardSave(variables), "description": ocp.args.JsonSave(description.to_json())}
    manager.save(description.step, args=ocp.args.Composite(**items), force=True)
    manager.close()


def _load_step(folder: Path) -> Checkpoint:
    description = describe_checkpoint(folder)
    variables = _read_item(folder, "variables")
    if (folder / "average").is_dir():
        variables = with_average(variables, _read_item(folder, "average"))
    return Checkpoint(description, variables, str(folder))


def describe_checkpoint(folder: Path) -> Description:
    """The description of the checkpoint in `folder` (one step's); UserError where it is not a whole one."""
    return read_description(folder / "description" / "metadata")  # where Orbax puts a JSON item


def _read_item(folder: Path, item: str) -> Any:
    """One item as arrays on this process's first device, whatever devices wrote it."""
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    handler = ocp.StandardCheckpointHandler()  # a Checkpointer would warn that an item is not a whole checkpoint
    try:
        stored = handler.metadata(folder / item)
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), dict(stored)
        )
        return handler.restore(folder / item, args=ocp.args.StandardRestore(target))
    except (OSError, ValueError, KeyError, TypeError) as error:  # what Orbax raises for missing or cut files
        raise UserError(_half_written(folder, item, error)) from error
    finally:
        handler.close()


def _half_written(folder: Path, item: str, error: Exception) -> str:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return (
        f"{folder}: item '{item}' cannot be read ({reason}); the checkpoint is half written, take another step or run"
    )


def _manager(folder: Path) -> ocp.CheckpointManager:
    handlers = {name: ocp.StandardCheckpointHandler() for name in _TREES}
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
