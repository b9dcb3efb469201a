"""Rows as the history of a run of Weights & Biases."""

import inspect
import os
import pathlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, Literal

from .._custom_types import Door
from .._durable import make_folder
from .._errors import ArgumentTypeError, ArgumentValueError
from ._base import Tracker
from ._files import local_folder, replace_text
from ._flat import numbers
from ._jsonl import JSONL
from ._known import Known
from ._packages import package
from ._wandb_file import cut_behind, last_of, wait_for_end

_ID = re.compile(r"[^/\\#?%:\s]{1,128}")
_PROJECT = re.compile(r"[^/\\#?%:]{1,128}")

# The client neither prints nor captures what the process prints; errors of its own stay here.
_SETTINGS = {"silent": True, "console": "off"}
# Seconds until it is not waited for any longer.
_LONGEST_WAIT = 10.0
_REPORTS_ERRORS = "WANDB_ERROR_REPORTING"


class WandB(Tracker):
    """The history of a run of Weights & Biases, by default without a network or an account.

    Each start of a training adds an offline run to the folder, all under one id:
    `wandb sync FOLDER/wandb/offline-run-*` uploads them as one run. When a training goes on from an
    earlier step, what earlier starts have behind it is cut off; what their client had not written
    when it was killed is logged again, from `rows.jsonl` in the folder. What was uploaded already
    cannot be taken back: steps that are there are then left out.

    Arrays are flattened to `name/0`, `name/1`.

    Args:
        folder: Of one run; it is made when needed. It holds the run's id, so that a copy goes on
            in the same run.
        project: To which the run belongs.
        id: Of the run; without it, that of the folder.
        mode: `"offline"`, or `"online"`, for which an account is needed.
        settings: `wandb.Settings` by name, such as `{"console": "wrap"}`.
        options: What else `wandb.init` takes: `name`, `config`, `tags`, `group`, `entity`.

    Attributes:
        run: The `wandb.Run` under way, for what else belongs to it; `None` before the first row
            and behind the last.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument cannot be used.
        MissingExtraError: The client is not installed.

    Example:
        >>> wandb = treadle.track.WandB("runs/digits/wandb", project="digits")
        >>> treadle.fit(..., run="runs/digits", callbacks=[treadle.callbacks.Log(wandb)])
    """

    def __init__(
        self,
        folder: Door[str | os.PathLike[str]],
        *,
        project: Door[str],
        id: Door[str | None] = None,  # noqa: A002  (as the client calls it)
        mode: Door[Literal["offline", "online"]] = "offline",
        settings: Door[Mapping[str, Any] | None] = None,
        **options: Any,
    ):
        self.folder = local_folder("folder", folder)
        if not isinstance(project, str) or not project:
            raise ArgumentTypeError(f"`project` (={project!r}) must be the name of a project.")
        if not _PROJECT.fullmatch(project):
            raise ArgumentValueError(
                rf"`project` (={project!r}) must be a name of at most 128 characters, without any "
                rf"of `/\#?%:`; whose it is goes as `entity=...`."
            )
        if mode not in ("offline", "online"):
            raise ArgumentValueError(f"`mode` (={mode!r}) must be 'offline' or 'online'.")
        if id is not None and not (isinstance(id, str) and _ID.fullmatch(id)):
            raise ArgumentValueError(
                rf"`id` (={id!r}) must be a string of at most 128 characters, without any of "
                rf"`/\#?%:` and spaces."
            )
        ours = options.keys() & {"dir", "resume", "resume_from", "fork_from", "reinit"}
        if ours:
            raise ArgumentValueError(
                f"{', '.join(f'`{name}`' for name in sorted(ours))} cannot be given: where the run "
                f"is, and how it goes on, is up to the tracker."
            )
        os.environ.setdefault(_REPORTS_ERRORS, "false")
        self._wandb = package("wandb", needed_by=type(self).__name__)
        known = inspect.signature(self._wandb.init).parameters
        unknown = [name for name in options if name not in known]
        if unknown:
            raise ArgumentTypeError(
                f"{', '.join(f'`{name}`' for name in unknown)} is nothing that `wandb.init` takes: "
                f"it takes {', '.join(known)}."
            )
        self._record = package("wandb.proto.wandb_internal_pb2", needed_by="WandB").Record
        self.mode = mode
        self.run: Any = None
        self._id = id
        self._settings = self._set(settings)
        self._options = options | {"project": project}
        self._rows = JSONL(self.folder / "rows.jsonl")
        # Up to which step what is there cannot be taken back.
        self._final = -1
        self._known = Known()

    def _set(self, settings: Any) -> Any:
        """The client's settings: ours, and above them the user's."""
        if settings is not None and not isinstance(settings, Mapping):
            raise ArgumentTypeError(
                f"`settings` (={settings!r}) must be a dictionary, {{'console': 'wrap'}}."
            )
        try:
            return self._wandb.Settings(**(_SETTINGS | dict(settings or {})))
        except ValueError as error:  # The client's errors of validation derive from it.
            raise ArgumentValueError(
                f"`settings` (={settings!r}) are not those of `wandb.Settings`: {error}"
            ) from error

    @property
    def id(self) -> str:
        """The id of the run: that of the folder, which is drawn when there is none."""
        file = self.folder / "run-id"
        if self._id is None and file.exists():
            self._id = file.read_text(encoding="utf-8").strip()
        if self._id is None:
            self._id = secrets.token_hex(4)
            make_folder(self.folder)
            replace_text(file, self._id + "\n")
        return self._id

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Hands a row to the client."""
        figures = dict(self._known.new(step, numbers(row)))
        self._rows.log(step, figures)
        self._send(step, figures)

    def resume(self, step: int) -> None:
        """Makes what is there end at `step`."""
        self.close()
        self._rows.resume(step)
        files = self._files()
        # The client puts that beside a file which it has uploaded.
        uploaded = [file for file in files if file.with_name(f"{file.name}.synced").exists()]
        self._final = last_of(uploaded, self._record).step
        for file in files:
            if file not in uploaded:
                cut_behind(file, step, self._record)
        rows = [(row.pop("step"), row) for row in self._rows.rows()]
        self._known = Known(step, [name for at, row in rows if at == step for name in row])
        if self.mode == "offline":
            last = last_of(files, self._record)
            there = Known(last.step, last.names)
            for at, row in rows:
                # What the client of a process that was killed had not written.
                if at >= last.step:
                    self._send(at, there.new(at, row))

    def flush(self) -> None:
        """Returns when every row is on the disk, if only in `rows.jsonl`.

        The client writes its own file in blocks of 32 KiB.
        """
        self._rows.flush()

    def close(self) -> None:
        """Ends the client's run; the next row begins one of the same id."""
        run, self.run = self.run, None
        try:
            self._rows.close()
        finally:
            if run is not None:
                file = pathlib.Path(run.dir).parent / f"run-{self.id}.wandb"
                run.finish()
                if self.mode == "offline":
                    # It may still be writing, and what is not there yet cannot be cut off.
                    wait_for_end(file, self._record, seconds=_LONGEST_WAIT)

    def _send(self, step: int, figures: Mapping[str, float]) -> None:
        if not figures:
            return
        if self.run is None:
            self.run = self._begun()
            if self.mode == "online":
                self._final = max(self._final, self.run.starting_step - 1)
        if step > self._final:
            self.run.log(dict(figures), step=step)

    def _begun(self) -> Any:
        make_folder(self.folder)
        return self._wandb.init(
            dir=str(self.folder),
            id=self.id,
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            # Not the run that the user may have under way beside this one.
            reinit="create_new",
            settings=self._settings,
            **self._options,
        )

    def _files(self) -> list[pathlib.Path]:
        """What earlier starts left, in the order of time."""
        return sorted((self.folder / "wandb").glob(f"offline-run-*/run-{self.id}.wandb"))
