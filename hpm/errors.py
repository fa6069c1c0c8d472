"""Errors that end in one sentence for the user, and the exit code of each.

`retryable` says whether the same command may succeed later, which a study's worker asks.
"""

OUTCOME_VARIABLE = "HPM_OUTCOME"
"""The environment variable that names the file to write a command's outcome to; see `hpm.runs.outcome`."""


class ToldError(Exception):
    """An error whose message is all that a person needs: a notebook shows it without the calls that led to it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows."""
        return [f"{type(self).__name__}: {self}"]


class UserError(ToldError):
    """Bad input: a binding, file or value. The command line prints the message alone and exits with code 2."""

    retryable = False


class RunInUseError(UserError):
    """Another process is writing to the run's folder."""

    retryable = True


class MainProcessError(UserError):
    """The main process found a mistake, and reports it."""


class TrainingError(ToldError):
    """A run that cannot go on, e.g. because losses are no longer finite. Exits with code 3; checkpoints are kept."""

    retryable = False


class Interrupted(ToldError):
    """A run that was told to stop by a signal, and saved. Exits with code 75, "try again later"."""

    retryable = True


class Notice(UserWarning):
    """What a user should know though nothing has to stop: shown as a line, without a place in our source."""
