"""Destination: under which experiment of a server a run is put, or which of its runs it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from hpm.tracking.base import UnusableTrackerError

EXPERIMENT = "curriculum-masking"
_DELETED = "deleted"
_OF_MODELS = {"mlflow.experimentKind": "custom_model_development"}  # its page opens on runs, not on language models


class Destination(NamedTuple):
    """What is bound goes first, then MLflow's own environment variables.

    Args:
        experiment: the experiment's name.
        experiment_id: the experiment by its number, MLFLOW_EXPERIMENT_ID; None where the name says which.
        run_id: the run that MLFLOW_RUN_ID names; None for one of its own.
    """

    experiment: str
    experiment_id: str | None = None
    run_id: str | None = None

    @classmethod
    def of(cls, bound: str | None, *, default: str = EXPERIMENT) -> Destination:
        """The destination of a run.

        Args:
            bound: the experiment's name, if it is bound.
            default: its name where the environment says nothing either.
        """
        if bound is not None:
            return cls(bound)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or default
        return cls(name, os.environ.get("MLFLOW_EXPERIMENT_ID") or None, os.environ.get("MLFLOW_RUN_ID") or None)

    @property
    def must_be_there(self) -> bool:
        """Whether it names something that is not made where it is missing."""
        return self.experiment_id is not None or self.run_id is not None

    def find(self, client: Any) -> str | None:
        """The number of the experiment; None where it is still to be made.

        Raises:
            UnusableTrackerError: if it was deleted, or the environment names two.
            Exception: what MLflow raises, also where it has no experiment of that number.
        """
        if self.experiment_id is None:
            found = client.get_experiment_by_name(self.experiment)
        else:
            found = client.get_experiment(self.experiment_id)
            named = os.environ.get("MLFLOW_EXPERIMENT_NAME") or found.name
            if named != found.name:
                raise UnusableTrackerError(
                    f"MLFLOW_EXPERIMENT_ID = {self.experiment_id} is the experiment {found.name!r} and "
                    f"MLFLOW_EXPERIMENT_NAME = {named!r} another; unset one of them"
                )
        if found is not None and found.lifecycle_stage == _DELETED:
            raise UnusableTrackerError(
                f"the experiment {found.name!r} was deleted; choose another by MLflowTracker.experiment, or get it "
                f"back: mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return None if found is None else found.experiment_id

    def find_or_make(self, client: Any) -> str:
        """The number of the experiment, which is made where it is missing; see `find`."""
        from mlflow.exceptions import MlflowException

        found = self.find(client)
        if found is not None:
            return found
        try:
            return client.create_experiment(self.experiment, tags=_OF_MODELS)
        except MlflowException:
            if (found := self.find(client)) is None:
                raise
            return found  # another run made it just now

    def find_run(self, client: Any, folder: Path) -> Any:
        """The run that MLFLOW_RUN_ID names; None where it names none.

        Args:
            client: of the server.
            folder: the run's own. An MLflow run takes one.

        Raises:
            UnusableTrackerError: if it was deleted, or holds another run.
            Exception: what MLflow raises, also where it has no such run.
        """
        if self.run_id is None:
            return None
        run = client.get_run(self.run_id)
        holds = run.data.tags.get("folder", str(folder.resolve()))
        if run.info.lifecycle_stage == _DELETED or holds != str(folder.resolve()):
            what = "was deleted" if run.info.lifecycle_stage == _DELETED else f"holds the run in {holds}"
            raise UnusableTrackerError(f"the MLflow run of MLFLOW_RUN_ID = {self.run_id} {what}; unset the variable")
        return run
