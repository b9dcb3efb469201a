"""An Equinox twin of `torch.nn.TransformerEncoder`, and the table that goes with it."""

import equinox as eqx
import jax
import jax.numpy as jnp

from treadle.interop.torch import Split

SIZE, HEADS, WIDE, LAYERS, LENGTH = 8, 2, 16, 2, 5


class Layer(eqx.Module):
    """A layer that normalises after each sum, as PyTorch's does by default."""

    attention: eqx.nn.MultiheadAttention
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    dropout: eqx.nn.Dropout

    def __init__(self, *, key):
        one, two, three = jax.random.split(key, 3)
        biases = dict.fromkeys(("query", "key", "value", "output"), True)
        self.attention = eqx.nn.MultiheadAttention(
            HEADS,
            SIZE,
            **{f"use_{name}_bias": bias for name, bias in biases.items()},
            dropout_p=0.1,
            key=one,
        )
        self.widen = eqx.nn.Linear(SIZE, WIDE, key=two)
        self.narrow = eqx.nn.Linear(WIDE, SIZE, key=three)
        self.norms = (eqx.nn.LayerNorm(SIZE), eqx.nn.LayerNorm(SIZE))
        self.dropout = eqx.nn.Dropout(0.1)

    def __call__(self, x, *, key=None):
        keys = [None] * 4 if key is None else jax.random.split(key, 4)
        attended = self.attention(x, x, x, key=keys[0])
        x = jax.vmap(self.norms[0])(x + self.dropout(attended, key=keys[1]))
        hidden = self.dropout(jax.nn.relu(jax.vmap(self.widen)(x)), key=keys[2])
        out = self.dropout(jax.vmap(self.narrow)(hidden), key=keys[3])
        return jax.vmap(self.norms[1])(x + out)


class Encoder(eqx.Module):
    """A stack of them, and a norm."""

    layers: list[Layer]
    norm: eqx.nn.LayerNorm

    def __init__(self, *, key):
        self.layers = [Layer(key=one) for one in jax.random.split(key, LAYERS)]
        self.norm = eqx.nn.LayerNorm(SIZE)

    def __call__(self, x, *, key=None):
        for at, layer in enumerate(self.layers):
            x = layer(x, key=None if key is None else jax.random.fold_in(key, at))
        return jax.vmap(self.norm)(x)


def cut(part):
    names = ("query_proj", "key_proj", "value_proj")
    return Split(*(f"layers/*/attention/{name}/{part}" for name in names))


RENAME = {
    "layers.*.self_attn.in_proj_weight": cut("weight"),
    "layers.*.self_attn.in_proj_bias": cut("bias"),
    "layers.*.self_attn.out_proj.*": "layers/*/attention/output_proj/*",
    "layers.*.linear1.*": "layers/*/widen/*",
    "layers.*.linear2.*": "layers/*/narrow/*",
    "layers.*.norm1.*": "layers/*/norms/0/*",
    "layers.*.norm2.*": "layers/*/norms/1/*",
}


def shapes():
    """What PyTorch's `state_dict` has, by name."""
    found = {"norm.weight": (SIZE,), "norm.bias": (SIZE,)}
    for at in range(LAYERS):
        inner = {
            "self_attn.in_proj_weight": (3 * SIZE, SIZE),
            "self_attn.in_proj_bias": (3 * SIZE,),
            "self_attn.out_proj.weight": (SIZE, SIZE),
            "self_attn.out_proj.bias": (SIZE,),
            "linear1.weight": (WIDE, SIZE),
            "linear1.bias": (WIDE,),
            "linear2.weight": (SIZE, WIDE),
            "linear2.bias": (SIZE,),
        }
        inner |= {f"norm{i}.{part}": (SIZE,) for i in (1, 2) for part in ("weight", "bias")}
        found |= {f"layers.{at}.{name}": shape for name, shape in inner.items()}
    return found


def inference(model, x):
    return jax.vmap(eqx.nn.inference_mode(model))(jnp.asarray(x))
