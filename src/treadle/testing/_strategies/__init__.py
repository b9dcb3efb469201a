"""Strategies for arrays, keys, trees, modules, optimizers, batches and states."""

from ._arrays import arrays as arrays
from ._batches import batches_like as batches_like
from ._code import code as code
from ._keys import keys as keys
from ._modules import modules as modules
from ._optimizers import optimizers as optimizers
from ._pytrees import pytrees as pytrees
from ._same_structure import same_structure as same_structure
from ._train_states import train_states as train_states
