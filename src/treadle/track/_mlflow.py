"""Rows as metrics of an MLflow run."""

import contextlib
import logging
import os
import pathlib
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError
from ._base import Tracker
from ._files import local_folder, replace_text
from ._flat import numbers
from ._packages import package

_log = logging.getLogger("treadle")

_NO_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"

# MLflow 3 has stopped developing its folders, and opens them only for those who say so.
_ALLOWED = {"MLFLOW_ALLOW_FILE_STORE": "true"}
# It tries a server that is gone for minutes; the training is not to wait that long.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}

# What MLflow does not take in the name of a metric.
_FORBIDDEN = re.compile(r"[^\w\-. :/]")

# A line of its files.
_POINT = re.compile(r"\d+ (?P<value>[-+.\w]+) (?P<step>-?\d+)( |$)")

# What it takes at once.
_BATCH = 1_000


@contextlib.contextmanager
def variables() -> Iterator[None]:
    """What MLflow reads from the environment, while it is spoken to; the user's settings win."""
    ours = {name: value for name, value in _IMPATIENT.items() if name not in os.environ} | _ALLOWED
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class MLflow(Tracker):
    """Metrics of a run of MLflow, in a folder or on a server.

    The run is found by its name: a training that goes on under the same name goes on in the same
    run. In a folder, points behind the step that it goes on from are taken out. Elsewhere MLflow
    has no way to take a point back, so that points which are there stay, and are not logged a
    second time; a training that begins anew gets a new run of that name.

    Names have the characters that MLflow takes, others become `_`; a name cannot be the folder of
    another one there (`a` and `a/b`), and the second one then gets dots for slashes. Arrays are
    flattened to `name/0`, `name/1`.

    Args:
        store: A folder, which is made when needed; or what MLflow calls a tracking URI.
        name: Of the run.
        experiment: To which the run belongs; made when it is not there.

    Attributes:
        client: The `MlflowClient`, for what else belongs to the run:
            `tracker.client.log_param(tracker.run_id, "width", 32)`.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument cannot be used.
        MissingExtraError: MLflow is not installed.

    Example:
        >>> mlflow = treadle.track.MLflow("runs/mlflow", name="digits")
        >>> treadle.fit(..., run="runs/digits", callbacks=[treadle.callbacks.Log(mlflow)])
    """

    def __init__(
        self,
        store: Door[str | os.PathLike[str]],
        *,
        name: Door[str],
        experiment: Door[str] = "treadle",
    ):
        _require_name("name", name)
        _require_name("experiment", experiment)
        is_uri = isinstance(store, str) and "://" in store
        self._folder = None if is_uri else local_folder("store", store)
        self._uri = str(store) if self._folder is None else self._folder.as_uri()
        # Nothing is told to anybody unless the user wants it to.
        os.environ.setdefault(_NO_TELEMETRY, "true")
        tracking = package("mlflow.tracking", needed_by="MLflow")
        self._entities = package("mlflow.entities", needed_by="MLflow")
        self._make_client = tracking.MlflowClient
        self._client: Any = None
        self.name = name
        self.experiment = experiment
        self._run: Any = None
        self._is_running = False
        # What is there of the step that is gone on from, and behind it, and stays.
        self._there: dict[tuple[str, int], float] = {}
        self._told = False
        # Under which names the figures go.
        self._names: dict[str, str] = {}

    @property
    def client(self) -> Any:
        """The `MlflowClient` of the store."""
        if self._client is None:
            with variables():
                self._client = self._make_client(tracking_uri=self._uri)
        return self._client

    @property
    def run_id(self) -> str:
        """Of the run of this name, which is made when it is not there."""
        if self._run is None:
            with variables():
                self._run = self._found() or self._made()
        return self._run.info.run_id

    @variables()
    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a point to each metric."""
        if not self._is_running:
            self.client.update_run(self.run_id, status="RUNNING")
            self._is_running = True
        now = int(time.time() * 1_000)
        named = {self._named(name): value for name, value in numbers(row).items()}
        points = [
            self._entities.Metric(name, value, now, step)
            for name, value in named.items()
            if not self._is_there(name, step, value)
        ]
        for begin in range(0, len(points), _BATCH):
            self.client.log_batch(self.run_id, metrics=points[begin : begin + _BATCH])

    @variables()
    def resume(self, step: int) -> None:
        """Takes out the points after `step`, or notes them, so that they are not doubled."""
        self._there, self._told = {}, False
        self._run = None
        if self._folder is not None:
            self._drop(step)
            return
        names = self.client.get_run(self.run_id).data.metrics
        if step == 0 and names:
            self.client.set_terminated(self.run_id, "KILLED")
            self._run = self._made()
            return
        for name in names:
            for point in self.client.get_metric_history(self.run_id, name):
                if point.step >= step:
                    self._there[name, point.step] = point.value

    def flush(self) -> None:
        """Nothing to do: MLflow has each row when `log` returns."""

    @variables()
    def close(self) -> None:
        """Says that the run is over."""
        if self._is_running:
            self._is_running = False
            self.client.set_terminated(self.run_id)

    def _found(self) -> Any:
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return None
        # The newest comes first.
        found = self.client.search_runs(
            [experiment.experiment_id],
            filter_string=f"attributes.run_name = '{self.name}'",
            max_results=1,
        )
        return found[0] if found else None

    def _made(self) -> Any:
        experiment = self.client.get_experiment_by_name(self.experiment)
        number = (
            self.client.create_experiment(self.experiment)
            if experiment is None
            else experiment.experiment_id
        )
        return self.client.create_run(number, run_name=self.name)

    def _drop(self, step: int) -> None:
        """Takes points out of the files, where each is a line: when, the value, the step."""
        assert self._folder is not None
        for name in self._folder.glob("*/*/tags/mlflow.runName"):
            if name.read_text(encoding="utf-8").strip() == self.name:
                # MLflow finds no run that has a line which is none.
                _keep_points(name.parents[1] / "metrics", lambda step: True)
        run = self._found()
        if run is None:
            return
        self._run = run
        metrics = self._folder / run.info.experiment_id / run.info.run_id / "metrics"
        for where, points in _keep_points(metrics, lambda at: at <= step).items():
            if step in points:
                self._there[where, step] = points[step]

    def _is_there(self, name: str, step: int, value: float) -> bool:
        if (name, step) not in self._there:
            return False
        old = self._there[name, step]
        if abs(old - value) > 1e-3 * max(abs(old), abs(value)) and not self._told:
            self._told = True
            _log.warning(
                "MLflow keeps %s=%r of step %d, which an earlier start of the training logged; "
                "now it is %r. Points that are there cannot be taken back: log a training that is "
                "another one under another name.",
                name,
                old,
                step,
                value,
            )
        return True

    def _named(self, name: str) -> str:
        """What it is called there: the same each time."""
        if name not in self._names:
            parts = _FORBIDDEN.sub("_", name).split("/")
            parts = ["_" if part in (".", "..") else part for part in parts if part]
            allowed = "/".join(parts) or "_"
            if self._is_in_the_way(allowed):
                allowed = allowed.replace("/", ".")
            while self._is_in_the_way(allowed):
                allowed += "_"
            self._names[name] = allowed
        return self._names[name]

    def _is_in_the_way(self, name: str) -> bool:
        """Whether there is a metric of that name, inside of it, or around it."""
        taken = self._names.values()
        return any(posixpath.commonpath([name, one]) in (name, one) for one in taken)


def _keep_points(
    metrics: pathlib.Path, is_kept: Callable[[int], bool]
) -> dict[str, dict[int, float]]:
    """Leaves some steps in the files of a run's metrics; returns what is left by name and step."""
    left = {}
    for file in [path for path in metrics.rglob("*") if path.is_file()]:
        text = file.read_text(encoding="utf-8")
        # The text behind the last newline was not finished when its writer died.
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        points = [(line, found) for line in lines if (found := _POINT.match(line))]
        kept = [(line, point) for line, point in points if is_kept(int(point["step"]))]
        name = file.relative_to(metrics).as_posix()
        left[name] = {int(point["step"]): float(point["value"]) for _, point in kept}
        whole = "".join(line for line, _ in kept)
        if not kept:
            file.unlink()  # MLflow reads no empty ones.
        elif whole != text:
            # Not beside it, where a file that a kill left would be a metric.
            replace_text(file, whole, aside=metrics.with_name("metrics.tmp"))
    return left


def _require_name(argument: str, name: Any) -> None:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"`{argument}` (={name!r}) must be a string.")
    if not name or set(name) & set("'\"`"):
        raise ArgumentValueError(
            f"`{argument}` (={name!r}) must be a name without quotes: the run is looked up by it."
        )
