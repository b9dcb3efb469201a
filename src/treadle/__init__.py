"""treadle: a training library for Equinox models."""

import importlib as _importlib
import typing as _typing

from . import callbacks as callbacks
from . import checkpoint as checkpoint
from . import data as data
from . import nn as nn
from . import track as track
from . import tree as tree
from ._audit import Finding as Finding
from ._audit import Report as Report
from ._audit import audit as audit
from ._cache import compilation_cache as compilation_cache
from ._compiled import Compilation as Compilation
from ._compiled import Compiled as Compiled
from ._diagnose import explain as explain
from ._ensemble import ensemble as ensemble
from ._errors import ArgumentTypeError as ArgumentTypeError
from ._errors import ArgumentValueError as ArgumentValueError
from ._errors import BatchError as BatchError
from ._errors import CheckpointError as CheckpointError
from ._errors import CheckpointNotFoundError as CheckpointNotFoundError
from ._errors import ConsumedStateError as ConsumedStateError
from ._errors import DamagedCheckpointError as DamagedCheckpointError
from ._errors import DataError as DataError
from ._errors import ExportError as ExportError
from ._errors import LawError as LawError
from ._errors import LeafNotFoundError as LeafNotFoundError
from ._errors import LossError as LossError
from ._errors import MissingExtraError as MissingExtraError
from ._errors import NonFiniteError as NonFiniteError
from ._errors import StateUnavailableError as StateUnavailableError
from ._errors import TreadleError as TreadleError
from ._errors import TreeError as TreeError
from ._evaluate import EvalStep as EvalStep
from ._evaluate import evaluate as evaluate
from ._export import Exported as Exported
from ._export import export as export
from ._export import load_exported as load_exported
from ._loop import History as History
from ._loop import Replayed as Replayed
from ._loop import fit as fit
from ._loop import replay as replay
from ._nonfinite import BadInput as BadInput
from ._nonfinite import NonFinite as NonFinite
from ._nonfinite import Operand as Operand
from ._nonfinite import Operation as Operation
from ._nonfinite import explain_nonfinite as explain_nonfinite
from ._precision import LossScale as LossScale
from ._precision import Precision as Precision
from ._predict import predict as predict
from ._state import TrainState as TrainState
from ._step import TrainStep as TrainStep
from ._sweep import Sweep as Sweep
from ._sweep import SweepRow as SweepRow
from ._sweep import SweepTable as SweepTable
from ._sweep import sweep as sweep
from ._weighted import Sum as Sum
from ._weighted import Weighted as Weighted
from ._weighted import ZeroWeightWarning as ZeroWeightWarning
from .callbacks import Callback as Callback
from .checkpoint import Checkpointer as Checkpointer
from .checkpoint import load as load
from .checkpoint import save as save

if _typing.TYPE_CHECKING:
    from . import interop as interop
    from . import testing as testing

# Imported when they are used: they need extras.
_LAZY = ("interop", "testing")


def __getattr__(name: str) -> _typing.Any:
    if name in _LAZY:
        return _importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
