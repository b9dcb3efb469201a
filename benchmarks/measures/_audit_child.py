"""The process of `audit`: steps of the corpus, and a transformer."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle


def groups() -> list[str]:
    """The rules that the corpus has steps for."""
    from tests.audit.corpus import cases

    return list(dict.fromkeys(case.group for case in cases()))


def outcomes(group: str, most: int | None) -> list[dict]:
    """What became of the steps of one rule.

    Args:
        group: Which.
        most: Steps of each kind, wrong and right; all if `None`.
    """
    from tests.audit.corpus import cases

    own = [case for case in cases() if case.group == group]
    chosen = [case for case in own if case.is_wrong][:most]
    chosen += [case for case in own if not case.is_wrong][:most]
    return [_outcome(case) for case in chosen]


def _outcome(case: Any) -> dict:
    from tests.audit.corpus import findings_of

    found = findings_of(case) if case.available else set()
    rules = {rule for rule, _ in case.expected}
    return {
        "group": case.group,
        "name": case.name,
        "wrong": case.is_wrong,
        "skipped": None if case.available else case.needs,
        "expected": [list(each) for each in sorted(case.expected)],
        "found": [list(each) for each in sorted(found, key=str)],
        "caught": rules <= {rule for rule, _ in found},
        "at_line": case.expected <= found,
        "unexpected": [list(each) for each in found - case.expected],
    }


class _Block(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norms: list[eqx.nn.LayerNorm]
    mlp: list[eqx.nn.Linear]
    dropout: eqx.nn.Dropout

    def __init__(self, width: int, key: Any):
        one, two, three = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=one)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
        self.mlp = [
            eqx.nn.Linear(width, 4 * width, key=two),
            eqx.nn.Linear(4 * width, width, key=three),
        ]
        self.dropout = eqx.nn.Dropout(0.1)

    def __call__(self, x: Any, key: Any) -> Any:
        one, two = jax.random.split(key)
        h = jax.vmap(self.norms[0])(x)
        x = x + self.dropout(self.attention(h, h, h), key=one)
        h = jax.vmap(self.norms[1])(x)
        h = jax.vmap(self.mlp[1])(jax.nn.gelu(jax.vmap(self.mlp[0])(h)))
        return x + self.dropout(h, key=two)


class _Transformer(eqx.Module):
    blocks: list[_Block]
    head: eqx.nn.Linear

    def __init__(self, layers: int, key: Any, width: int = 64):
        *keys, last = jax.random.split(key, layers + 1)
        self.blocks = [_Block(width, each) for each in keys]
        self.head = eqx.nn.Linear(width, 10, key=last)

    def __call__(self, x: Any, key: Any) -> Any:
        for block, each in zip(self.blocks, jax.random.split(key, len(self.blocks)), strict=True):
            x = block(x, each)
        return self.head(x.mean(0))


def times(layers: int, turns: int) -> dict[str, list[float]]:
    """Seconds to trace, lower and compile a step, and to audit it, taking turns.

    Args:
        layers: Of the transformer.
        turns: How often each.
    """

    def loss_fn(model: Any, example: Any, key: Any) -> Any:
        x, y = example
        return optax.softmax_cross_entropy_with_integer_labels(model(x, key), y)

    step = treadle.TrainStep(loss_fn, optax.adamw(1e-3))
    state = step.init(_Transformer(layers, jax.random.key(0)), key=jax.random.key(1))
    batch = jnp.ones((4, 32, 64)), jnp.zeros(4, jnp.int32)
    found: dict[str, list[float]] = {"plain": [], "audit": []}
    # Once each before it counts: what is imported and cached at first.
    for turn in range(turns + 1):
        for name, call in (("plain", step.compile), ("audit", None)):
            jax.clear_caches()
            start = time.perf_counter()
            if call is None:
                treadle.audit(step, state, batch)
            else:
                call(state, batch)
            taken = time.perf_counter() - start
            if turn:
                found[name].append(taken)
    return found
