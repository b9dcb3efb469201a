"""The classes and functions that drawn trees are made of, so that printed code can be pasted."""

from ._build import build as build
from ._containers import Point as Point
from ._containers import Record as Record
from ._functions import first as first
from ._functions import halved as halved
from ._functions import last as last
from ._functions import leaky as leaky
from ._functions import matrices as matrices
from ._modules import Affine as Affine
from ._modules import Branches as Branches
from ._modules import Chain as Chain
from ._modules import Empty as Empty
from ._modules import Frozen as Frozen
from ._modules import Labelled as Labelled
from ._modules import Memory as Memory
from ._modules import Noise as Noise
from ._modules import Parts as Parts
from ._modules import Residual as Residual
from ._modules import Scale as Scale
from ._modules import Tied as Tied
from ._stateful import marked as marked
from ._stateful import state as state
from ._stateful import state_index as state_index
from ._train_state import train_state as train_state
from ._weak import weak as weak
