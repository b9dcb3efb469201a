"""Where the rows of a training go."""

from ._all import All as All
from ._base import Tracker as Tracker
from ._csv import CSV as CSV
from ._jsonl import JSONL as JSONL
from ._jsonl import read_jsonl as read_jsonl
from ._mlflow import MLflow as MLflow
from ._tensorboard import TensorBoard as TensorBoard
from ._wandb import WandB as WandB
