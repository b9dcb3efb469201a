"""What can be measured; each file has `measure`, `tables` and `goals`."""

from . import (
    audit,
    checkpoint,
    corruption,
    dispatch,
    ensemble,
    gc,
    keys,
    kills,
    loop,
    memory,
    mutants,
    rules,
    startup,
    step,
    strategies,
    tree,
)

MEASURES = {
    "dispatch": dispatch,
    "loop": loop,
    "step": step,
    "ensemble": ensemble,
    "memory": memory,
    "startup": startup,
    "gc": gc,
    "keys": keys,
    "checkpoint": checkpoint,
    "tree": tree,
    "strategies": strategies,
    "mutants": mutants,
    "rules": rules,
    "audit": audit,
    "corruption": corruption,
    "kills": kills,
}
