"""What happens besides the training."""

from ._base import Callback as Callback
from ._base import Context as Context
from ._checkpointing import Checkpointing as Checkpointing
from ._early_stopping import EarlyStopping as EarlyStopping
from ._logging import Log as Log
from ._metrics import StepMetrics as StepMetrics
from ._profiler import Profiler as Profiler
from ._progress import ProgressBar as ProgressBar
from ._throughput import Throughput as Throughput
from ._throughput import TimeSplit as TimeSplit
