"""The trials of a sweep on Ray Tune: on the cores and GPUs of this machine, or of a cluster."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OperationError
from ..recipe.recipe import Recipe
from ..storage import logs
from .sweep_file import AshaSection, SweepFile, Trial
from .trial import MEMORY_HINT, ended, note, run_trial

_logger = logging.getLogger(__name__)

_PATIENCE = 10
"""Seconds until a machine that does not answer counts as not there."""


def run_on_ray(pending: Sequence[Trial], out: Path, content: SweepFile, *, address: str | None) -> None:
    """Run trials; each leaves its record in its own folder, so what the driver knows may be lost with it.

    Raises:
        OperationError: there is no such cluster, or a trial needs more than this machine has.
    """
    # Tune's own words on the terminal are about its files; ours are in the log
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import ray
    from ray import tune

    mine = not ray.is_initialized()
    try:
        if mine:
            _answers(address)
            ray.init(  # without "local" it would wait for a cluster that was here once
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise OperationError(
            f"Ray at {address or 'this machine'}",
            f"it cannot be reached ({error})",
            "start it: ray start --head",
        ) from error
    storage = out / "ray" / uuid.uuid4().hex
    needs = {"cpu": content.resources.cpus, "gpu": content.resources.gpus}
    asha = None if content.asha is None else content.asha.model_dump()
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        _check_room(needs, nodes, may_grow=not mine or address is not None)
        tuner = tune.Tuner(
            tune.with_resources(_trainable, needs),
            param_space={
                "trial": tune.grid_search([_as_config(trial) for trial in pending]),
                "out": str(out),
                "asha": asha,
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=content.resources.at_once, reuse_actors=False),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=content.resources.retries),
            ),
        )
        tuner.fit()
    finally:
        if mine:
            ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)
    _note_the_dead(pending, out)


def _answers(address: str | None) -> None:
    """Ray itself would try to reach a machine that is not there for minutes, in silence."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _check_room(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]], *, may_grow: bool) -> None:
    """Raise, or warn where machines may join, if no machine can hold a trial: Ray would wait for one in silence."""
    if any(all(node.get(kind.upper(), 0) >= amount for kind, amount in needs.items()) for node in nodes):
        return
    words = {"cpu": "cores", "gpu": "GPUs"}
    wanted = " and ".join(f"{amount:g} {words[kind]}" for kind, amount in needs.items() if amount)
    most = {kind: max((node.get(kind.upper(), 0) for node in nodes), default=0) for kind in needs}
    found = ", ".join(f"{most[kind]:g} {words[kind]}" for kind in needs)
    cause = f"a trial needs {wanted}, and no machine has as much (the most that one has: {found})"
    remedy = "lower resources.cpus or resources.gpus in the sweep file"
    if not may_grow:
        raise OperationError("the sweep", cause, remedy)
    warnings.warn(f"the sweep waits: {cause}; {remedy}, or add such a machine to the cluster", stacklevel=2)


def _as_config(trial: Trial) -> dict[str, Any]:
    return {"name": trial.name, "changes": trial.changes, "recipe": trial.recipe.model_dump(mode="json")}


def _trainable(config: dict[str, Any]) -> None:
    """A trial on a worker."""
    from ray import tune

    out = Path(config["out"])
    if not (out / "plan.json").is_file():
        raise OperationError(
            str(out), "this machine does not see it", "put --out on storage that all machines share"
        )
    given = config["trial"]
    trial = Trial(
        given["name"], given["changes"], Recipe.parse(given["recipe"], source=f"trial {given['name']}")
    )
    asha = None if config["asha"] is None else AshaSection.model_validate(config["asha"])
    record = run_trial(trial, out, asha=asha)
    tune.report({"state": record.state, "seconds": record.seconds})


def _note_the_dead(pending: Sequence[Trial], out: Path) -> None:
    """A trial whose every worker died left no word; the kernel does that to those who take too much memory."""
    for trial in pending:
        record = ended(trial, out)
        if record.state in {"new", "running"}:
            reason = (
                f"its worker died, {record.starts} times" if record.starts else "no worker could begin it"
            )
            note(record, trial, out, state="failed", reason=reason, hint=f"perhaps {MEMORY_HINT}")
            logs.event(_logger, f"{trial.name}: failed", trial=trial.name, event="failed", reason=reason)
