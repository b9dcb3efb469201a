"""A small training with every tracker, for tests that kill it; and what each tracker then has."""

import contextlib
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import optax
from tests.helpers import Net, loss_fn, make_batch

import treadle
from treadle.track import CSV, All, MLflow, TensorBoard, WandB

STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
# As few as make the client of Weights & Biases start fast.
QUICK = {"x_disable_stats": True, "x_disable_meta": True, "disable_git": True}


class Kill(treadle.Callback):
    """Ends the process at once, when the metrics of a step have been logged."""

    def __init__(self, at):
        self.at = at

    def on_step(self, ctx):
        if ctx.step == self.at:
            float(ctx.metrics["loss"])
            os.kill(os.getpid(), signal.SIGKILL)


def trackers_in(folder):
    return {
        "csv": CSV(folder / "rows.csv"),
        "tensorboard": TensorBoard(folder / "tensorboard"),
        "wandb": WandB(folder / "wandb", project="tests", settings=QUICK),
        "mlflow": MLflow(folder / "mlflow", name="tests"),
    }


def evaluation(state):
    return {"norm": jnp.sum(state.model.last.weight)}


def train(folder, *, kill_at=None, num_steps=24, trackers=None, callbacks=()):
    """24 steps with a checkpoint at 10 and 20, evaluated at 5, 10, 15, ...."""
    trackers = trackers_in(folder) if trackers is None else trackers
    log = treadle.callbacks.Log(All(list(trackers.values())), 1)
    return treadle.fit(
        STEP,
        STEP.init(Net(jax.random.key(1)), key=jax.random.key(0)),
        treadle.data.arrays(make_batch(64), 8, key=jax.random.key(5)),
        num_steps=num_steps,
        run=folder,
        checkpointer=treadle.Checkpointer(folder / "checkpoints", asynchronous=False),
        checkpoint_every=10,
        log_every=1,
        eval=evaluation,
        eval_every=5,
        callbacks=[log, *callbacks, *([] if kill_at is None else [Kill(kill_at)])],
        progress=False,
    )


# -- read back with the packages themselves --------------------------------------------------------


def in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    points = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    # It keeps the names of those of which it has left out every point.
    return {tag: values for tag, values in points.items() if values}


def wandb_records(file):
    """With the package's own reader, in the versions that have one."""
    if not file.stat().st_size:
        return []
    from wandb.proto.wandb_internal_pb2 import Record

    from treadle.track._wandb_file import records

    with contextlib.suppress(ModuleNotFoundError):
        from wandb.sdk.internal.datastore import DataStore

        store = DataStore()
        store.open_for_scan(str(file))
        scanned = []
        while (data := store.scan_data()) is not None:
            scanned.append(Record.FromString(data))
        store.close()
        return scanned
    return [each.message for each in records(pathlib.Path(file).read_bytes(), Record)]


def in_wandb(folder):
    """Of all offline runs, in the order of time; there must be one id."""
    import json

    points, ids = {}, set()
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                row = {item.key or item.nested_key[0]: item for item in record.history.item}
                step = json.loads(row["_step"].value_json)
                for name, item in row.items():
                    if not name.startswith("_"):
                        points.setdefault(name, []).append((step, json.loads(item.value_json)))
    assert len(ids) <= 1
    return points


def in_mlflow(folder, name="tests"):
    from treadle.track._mlflow import variables

    with variables():
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=str(folder))
    experiment = client.get_experiment_by_name("treadle")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == name
    return {
        metric: [
            (point.step, point.value)
            for point in client.get_metric_history(run.info.run_id, metric)
        ]
        for metric in run.data.metrics
    }


def in_csv(file):
    points = {}
    for row in CSV(file).rows():
        step = int(row.pop("step"))
        for name, cell in row.items():
            if cell:
                points.setdefault(name, []).append((step, float(cell)))
    return points


def points_in(folder):
    """What each tracker has, by name: steps and values, in order."""
    return {
        "csv": in_csv(folder / "rows.csv"),
        "tensorboard": in_tensorboard(folder / "tensorboard"),
        "wandb": in_wandb(folder / "wandb"),
        "mlflow": in_mlflow(folder / "mlflow"),
    }
