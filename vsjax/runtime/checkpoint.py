"""Orbax checkpoints that describe themselves.

    runs/a/checkpoints/last/STEP/   parameters, moving average, optimiser, auxiliary, description: what a restart needs
    runs/a/checkpoints/best/STEP/   the same at the best validation so far, without optimiser and auxiliary

Orbax writes a step under a temporary name and renames it when it is whole, so a killed run leaves no half checkpoint
that could be mistaken for one; only then is an older one deleted. Of `last` the two newest are kept: what happened to
the newest on disk (`manifest.py` tells) costs the steps since the one before. The data iterator is a function of the
step (`{"next_index": step}`), which is why it is stored as the step alone and restores onto any number of processes."""

import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from vsjax.disk import writing
from vsjax.errors import UserError, shorten
from vsjax.runtime.description import Description, read_description
from vsjax.runtime.manifest import Leaf, check_whole, leaves_of, write_manifest
from vsjax.tasks.state import with_average

LOG = logging.getLogger(__name__)
KINDS = ("best", "last")
_KEPT = {"best": 1, "last": 2}
_TREES = ("variables", "average", "optimizer", "auxiliary")
_STEP = re.compile("0|[1-9][0-9]*")
_LEFT_OVER = re.compile(r"[0-9]+\.(orbax-checkpoint-tmp|deleted)")  # by a killed run


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


class _StepHandler(ocp.CompositeCheckpointHandler):
    """Orbax's handler of a step with several items, which writes the manifest when all of them are on disk."""

    def __init__(self) -> None:
        trees = {name: ocp.StandardCheckpointHandler() for name in _TREES}
        super().__init__(**trees, description=ocp.JsonCheckpointHandler())
        self._leaves: dict[str, dict[str, Leaf]] = {}

    async def async_save(self, directory: epath.Path, args: "_StepArgs") -> list[Any] | None:
        """Begin to save, as Orbax does."""
        self._leaves = {name: leaves_of(arg.item) if name in _TREES else {} for name, arg in args.items()}
        return await super().async_save(directory, args)

    def finalize(self, directory: epath.Path) -> None:
        """Orbax calls it in the first process, in the background, when all processes have written all items, and
        renames the folder afterwards."""
        super().finalize(directory)
        write_manifest(Path(directory), self._leaves)


@ocp.args.register_with_handler(_StepHandler, for_save=True, for_restore=True)
class _StepArgs(ocp.args.Composite):
    """What is saved: the items' arguments by name."""


class CheckpointStore:
    """Saves and restores the checkpoints of one run, asynchronously. Nothing is written before the first is saved.

    Saving raises WriteError where the disk does not take the checkpoint, or did not take the one before; what was whole
    stays so. Several processes save together, and all do what the first one finds.
    """

    def __init__(self, workdir: str | Path) -> None:
        self._workdir = Path(workdir).absolute()
        self._folder = self._workdir / "checkpoints"
        self._checkpointer = ocp.AsyncCheckpointer(_StepHandler())
        self._thread = ThreadPoolExecutor(1)
        self._saving: tuple[Path, Future[None]] | None = None

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint of `last`, None where there is none at all; what is damaged and newer
        is told in the log, and replaced when the run comes there again.

        Raises:
            UserError: there are checkpoints, but none is whole.
        """
        folder = self._folder / "last"
        step, damage = _newest_whole(folder) if jax.process_index() == 0 else (None, None)
        if damage and step is not None:
            LOG.warning("%s; going back to step %d, which is whole", damage, step)
        found = _of_first_process(step if step is not None else -2 if damage else -1)
        if found == -2:
            reason = damage or f"{folder}: the first process finds damage"
            raise UserError(f"{reason}; no other step is whole: restore it, or delete {folder} to begin anew")
        return None if found == -1 else found

    def save_last(self, state: Any, description: Description) -> None:
        """Save everything a restart needs; `state` has `variables`, `average`, `optimizer` and `auxiliary`. UserError
        where a value of it is not finite."""
        self._save("last", description, {name: getattr(state, name) for name in _TREES})

    def save_best(self, state: Any, description: Description) -> None:
        """Save what prediction needs as the best so far. UserError where a value of it is not finite."""
        self._save("best", description, {"variables": state.variables, "average": state.average})

    def _save(self, kind: str, description: Description, trees: dict[str, Any]) -> None:
        folder = self._folder / kind / str(description.step)
        self.wait()  # several processes can save one thing at a time: Orbax names its barriers after nothing
        broken = next((name for name, tree in trees.items() if not _is_finite(tree)), "")
        if _of_any_process(bool(broken)):
            raise UserError(
                f"{self._workdir}: step {description.step}: the {broken or 'parameters'} are NaN or infinite, so "
                "training stopped; the last checkpoint is older. Lower config.optim.learning_rate, or set "
                "config.optim.clip_norm"
            )
        # A resumed run may reach a step that it had saved before it was killed.
        if _of_first_process(jax.process_index() == 0 and _holds(folder, description)):
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items() if jax.tree.leaves(tree)}
        items["description"] = ocp.args.JsonSave(description.to_json())
        with writing(folder.parent):
            if jax.process_index() == 0 and os.path.lexists(folder):
                _delete(folder)
            self._checkpointer.save(folder, args=_StepArgs(**items), force=True)
        self._saving = folder, self._thread.submit(self._finish, folder)

    def _finish(self, folder: Path) -> None:
        """Wait until `folder` is whole, then delete what it replaces: older steps, damaged ones or those of a course
        that the run did not take again after it, and what a killed run left."""
        self._checkpointer.wait_until_finished()
        if jax.process_index() > 0:
            return
        kept = {step for step in steps_in(folder.parent) if step <= int(folder.name)}
        kept = sorted(kept)[-_KEPT[folder.parent.name] :]
        for entry in list(folder.parent.iterdir()):
            if _LEFT_OVER.fullmatch(entry.name) or (_STEP.fullmatch(entry.name) and int(entry.name) not in kept):
                _delete(entry)

    def describe_last(self, step: int) -> Description:
        """The description at `step`; UserError where it cannot be read."""
        return describe_checkpoint(self._folder / "last" / str(step))

    def describe_best(self) -> Description | None:
        """The description of the best so far, None where there is none; UserError where it cannot be read."""
        steps = steps_in(self._folder / "best")
        return describe_checkpoint(self._folder / "best" / str(steps[-1])) if steps else None

    def restore_last(self, step: int, state: Any) -> Any:
        """The state at `step`, which `latest_step` gave; `state` holds `jax.ShapeDtypeStruct`s with shardings.

        Raises:
            UserError: the checkpoint is of another model or optimiser.
        """
        folder = self._folder / "last" / str(step)
        parts = {name: getattr(state, name) for name in _TREES}
        parts = {name: tree for name, tree in parts.items() if jax.tree.leaves(tree)}
        stored = {name: item.leaves for name, item in check_whole(folder, ()).items.items() if name in _TREES}
        if differences := _differences({name: leaves_of(tree) for name, tree in parts.items()}, stored):
            raise UserError(
                f"{folder}: the checkpoint is of another model or optimiser "
                f"({differences}); use another --workdir, or the configuration in its description"
            )
        return state.replace(**{name: _read_item(folder, name, tree) for name, tree in parts.items()})

    def wait(self) -> None:
        """Block until everything saved is on disk. WriteError where the disk does not take it."""
        if self._saving is not None:
            (folder, saved), self._saving = self._saving, None
            with writing(folder.parent):
                saved.result()

    def close(self) -> None:
        """Wait, then release the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()


def load_checkpoint(path: str | Path, which: str | None = None) -> Checkpoint:
    """Read what prediction needs from a run's folder: the newest step of its kind.

    A damaged one is not replaced by another in silence, since its predictions would not be those that were asked for:
    the line names those that are whole. The step before is taken once the damaged folder is deleted.

    Args:
        path: the run (`runs/a`).
        which: `"best"` or `"last"`; by default the best where the run validated, otherwise the last.

    Raises:
        UserError: there is no checkpoint, it is damaged, or a value of it is not finite.
    """
    folder = Path(path).absolute()
    if which is not None and which not in KINDS:
        raise UserError(f"--which={which!r} does not exist; choose one of {', '.join(KINDS)}")
    for kind in KINDS if which is None else (which,):
        if steps := steps_in(folder / "checkpoints" / kind):
            return _load_step(folder / "checkpoints" / kind / str(steps[-1]))
    wanted = which or "best or last"
    raise UserError(
        f"{folder}: no whole checkpoint ({wanted}) under checkpoints/; give the --workdir of a run of vsjax.train"
    )


def save_variables(path: str | Path, variables: Any, description: Description) -> None:
    """Write a checkpoint that did not come from a run, such as converted weights. UserError where a weight is not
    finite."""
    folder = Path(path).absolute() / "checkpoints" / "best" / str(description.step)
    if not _is_finite(variables):
        raise UserError(f"{path}: weights are NaN or infinite, so nothing was written; take others")
    items = {"variables": ocp.args.StandardSave(variables), "description": ocp.args.JsonSave(description.to_json())}
    checkpointer = ocp.AsyncCheckpointer(_StepHandler())
    with writing(folder.parent):
        try:
            checkpointer.save(folder, args=_StepArgs(**items), force=True)
        finally:
            checkpointer.close()


def describe_checkpoint(folder: Path) -> Description:
    """The description of the checkpoint in `folder` (one step's).

    Raises:
        UserError: it is not whole as far as that can be told without reading its arrays, or of another step.
    """
    check_whole(folder, ("description",))
    description = read_description(folder / "description" / "metadata")  # where Orbax puts a JSON item
    if str(description.step) != folder.name:
        raise UserError(
            f"{folder}: its description is of step {description.step}; give the folder its name back, or take another"
        )
    return description


def steps_in(folder: Path) -> list[int]:
    """The steps below `checkpoints/KIND`, rising: Orbax names a step's folder so when everything is written."""
    try:
        return sorted(int(child.name) for child in folder.iterdir() if _STEP.fullmatch(child.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); give yourself the right to") from error


def _load_step(folder: Path) -> Checkpoint:
    try:
        manifest = check_whole(folder, ("description", "variables", "average"))
        description = describe_checkpoint(folder)
    except UserError as error:
        raise UserError(f"{error}; {_others(folder)}") from error
    trees = {name: _read_item(folder, name, None) for name in ("variables", "average") if name in manifest.items}
    if "variables" not in trees:
        raise UserError(f"{folder}: has no item 'variables'; take another checkpoint")
    for name, tree in trees.items():
        if not _is_finite(tree):
            raise UserError(f"{folder}: the {name} are NaN or infinite: the training diverged; take another checkpoint")
    return Checkpoint(description, with_average(trees["variables"], trees.get("average", {})), str(folder))


def _others(damaged: Path) -> str:
    """What a user can take instead of a damaged step."""
    for kind in KINDS:
        folder = damaged.parent.parent / kind
        step, _ = _newest_whole(folder, without=damaged)
        if step is None:
            continue
        remedy = f"--which {kind}" if folder != damaged.parent else "delete the damaged folder to take it"
        return f"{kind}/{step} is whole: {remedy}"
    return "take another run, or train or convert again"


def _newest_whole(folder: Path, without: Path | None = None) -> tuple[int | None, UserError | None]:
    """The newest whole step of a kind, None where there is none, and what is wrong with the newest damaged one."""
    damage: UserError | None = None
    for step in reversed(steps_in(folder)):
        if folder / str(step) == without:
            continue
        try:
            check_whole(folder / str(step))
            describe_checkpoint(folder / str(step))
        except UserError as error:
            damage = damage or error
        else:
            return step, damage
    return None, damage


def _holds(folder: Path, description: Description) -> bool:
    """Whether a whole checkpoint of the same step, with the same validations, is there."""
    if not os.path.lexists(folder):
        return False
    try:
        check_whole(folder)
        return describe_checkpoint(folder).progress == description.progress
    except UserError:  # damaged: it is written again
        return False


def _delete(path: Path) -> None:
    """Delete a step, under a name that is no step's, so that no half of one is left when the run is killed."""
    doomed = path.with_name(f"{path.name.partition('.')[0]}.deleted")
    if path != doomed:
        _delete_now(doomed)
        path.rename(doomed)
    _delete_now(doomed)


def _delete_now(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_item(folder: Path, item: str, tree: Any) -> Any:
    """One item as arrays with the shardings of `tree`, whatever devices wrote it; by default as it was stored, on this
    process's first device."""
    handler = ocp.StandardCheckpointHandler()  # a Checkpointer would warn that an item is not a whole checkpoint
    try:
        if tree is None:
            sharding = SingleDeviceSharding(jax.local_devices()[0])
            stored = dict(handler.metadata(folder / item))
            tree = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), stored)
        return handler.restore(folder / item, args=ocp.args.StandardRestore(tree))
    except Exception as error:  # whatever Orbax and TensorStore raise, bare ones among them, for what they cannot read
        reason = shorten(" ".join(str(error).split()), 200) or type(error).__name__
        raise UserError(f"{folder}: item '{item}' cannot be read ({reason}); take another step or run") from error
    finally:
        handler.close()


def _is_finite(tree: Any) -> bool:
    """Whether no number is NaN or infinite in what this process holds of a tree of arrays. On the host, where saving
    brings them anyway: compiling it for some hundred shapes would take longer than many a run."""
    for leaf in jax.tree.leaves(tree):
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact):
            parts = (
                {str(s.index): s.data for s in leaf.addressable_shards} if isinstance(leaf, jax.Array) else {"": leaf}
            )
            if not all(np.isfinite(np.asarray(part)).all() for part in parts.values()):
                return False
    return True


def _of_first_process(value: int | bool) -> int:
    """What the first process says, so that all do the same."""
    return int(value) if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _of_any_process(value: bool) -> bool:
    """Whether one of them says so."""
    return value if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(value)).any())


def _differences(expected: Mapping[str, Mapping[str, Leaf]], stored: Mapping[str, Mapping[str, Leaf]]) -> str:
    """The first difference in words, empty where there is none."""
    for item, leaves in expected.items():
        if item not in stored:
            return f"item '{item}' is missing"
        for name, leaf in leaves.items():
            if name not in stored[item]:
                return f"'{name}' is missing"
            if stored[item][name].shape != leaf.shape:
                return f"'{name}' has shape {stored[item][name].shape} instead of {leaf.shape}"
            if stored[item][name].dtype != leaf.dtype:
                return f"'{name}' is {stored[item][name].dtype} instead of {leaf.dtype}"
        if extra := sorted(set(stored[item]) - set(leaves)):
            return f"'{extra[0]}' has no place in this model"
    return ""
