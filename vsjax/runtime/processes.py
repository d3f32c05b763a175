"""One training in several processes: how they find each other."""

import logging

import jax

from vsjax.errors import UserError


def join_processes(cluster: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connect this process with the others of the same training; with nothing given it stays alone.

    Args:
        cluster: the processes are those of a Slurm job step or of a TPU pod, whose metadata say who is who.
        coordinator: `host:port` of process 0, where there is no such metadata.
        processes: how many there are.
        process: the number of this one, from 0.

    Raises:
        UserError: a part of this is missing, or the processes do not find each other.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if not cluster and not any(given):
        return
    if cluster and any(given):
        raise UserError(
            "command line: --cluster finds the processes itself; leave --coordinator, --processes, --process out"
        )
    if not cluster and not all(given):
        raise UserError(
            "command line: give all of --coordinator HOST:PORT, --processes N and --process I, or --cluster"
        )
    if not cluster and not 0 <= process < processes:
        raise UserError(
            f"command line: --process={process} must be from 0 to {processes - 1} (--processes={processes})"
        )
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:  # no cluster to be found, or nobody answers
        reason = str(error).splitlines()[0]
        raise UserError(f"command line: the processes of this training do not find each other ({reason})") from error
    if jax.process_index() > 0:  # what all of them would say is said once
        logging.getLogger("vsjax").setLevel(logging.WARNING)
