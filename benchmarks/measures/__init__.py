"""What can be measured; each file has `measure`, `tables` and `goals`."""

from . import dispatch, gc, keys, loop, memory, startup

MEASURES = {
    "dispatch": dispatch,
    "loop": loop,
    "memory": memory,
    "startup": startup,
    "gc": gc,
    "keys": keys,
}
