"""What the step itself needs of explanation: errors, compilations, signatures compared."""

from ._abstract import abstract as abstract
from ._causes import cause as cause
from ._compilations import compilation_counter as compilation_counter
from ._explain import annotate as annotate
from ._explain import explain as explain
from ._frames import Place as Place
from ._frames import library_of as library_of
from ._newest import remember as remember
from ._private import RawFrame as RawFrame
from ._private import raw_frames as raw_frames
from ._signature import Signature as Signature
from ._signature import Snapshot as Snapshot
from ._signature import signature as signature
