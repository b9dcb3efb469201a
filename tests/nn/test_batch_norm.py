"""Batch norms beside PyTorch's: what they compute, what they keep, and what is converted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.nn.reference import (
    MOMENTUM,
    drawn,
    filled,
    labels_of,
    parameters_of,
    recorded,
    statistics_of,
    with_statistics,
)

from treadle import TrainStep
from treadle.nn._blocks import normalise

SHAPE = (4, 2, 3, 2)
EXAMPLES = 4 * 3 * 2
EPS = 1e-5


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=["recorded", "live"])
def figures(request):
    """PyTorch's figures: those on record, and where it is installed also those of this machine."""
    if request.param == "recorded":
        return recorded()
    pytest.importorskip("torch")
    from tests.nn import torch_figures

    return {
        "batch_norm": torch_figures.batch_norm_figures(),
        "training": torch_figures.training_figures(),
    }


def make_norm():
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        2, "batch", momentum=MOMENTUM, mode="batch"
    )
    values = [jnp.asarray(drawn(f"bn.{part}", (2,))) for part in ("weight", "bias")]
    return eqx.tree_at(lambda n: [n.weight, n.bias], norm, values), state


@eqx.filter_jit
def over_batch(norm, x, state):
    mapped = jax.vmap(normalise, axis_name="batch", in_axes=(None, 0, None), out_axes=(0, None))
    return mapped(norm, x, state)


def by_hand(norm, x, mean, var):
    shape = (1, 2, 1, 1)
    mean, var, weight, bias = (
        np.reshape(part, shape) for part in (mean, var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(var + EPS) * weight + bias


def test_three_steps_of_training_are_pytorchs(figures):
    told = figures["batch_norm"]
    norm, state = make_norm()
    for step in range(3):
        out, state = over_batch(norm, jnp.asarray(drawn(f"input {step}", SHAPE)), state)
        close(out, told["train"][step])
        mean, var = statistics_of(norm, state, EXAMPLES)
        close(mean, told["running_mean"][step])
        close(var, told["running_var"][step])


def test_the_running_variance_is_not_pytorchs_without_the_conversion(figures):
    # Otherwise the conversion would not be tested at all.
    norm, state = make_norm()
    _, state = over_batch(norm, jnp.asarray(drawn("input 0", SHAPE)), state)
    _, var = state.get(norm.batch_state_index)
    gap = np.abs(np.asarray(var) - figures["batch_norm"]["running_var"][0])
    assert np.all(gap > 1e-3)


def test_with_pytorchs_statistics_evaluation_is_pytorchs(figures):
    told = figures["batch_norm"]
    norm, state = make_norm()
    evaluated = eqx.nn.inference_mode(norm)
    for step in range(3):
        for count in (0, 1000):
            statistics = (told[part][step] for part in ("running_mean", "running_var"))
            state = with_statistics(norm, state, *statistics, count)
            out, _ = over_batch(evaluated, jnp.asarray(drawn(f"input {step}", SHAPE)), state)
            close(out, told["eval"][step])


def test_evaluation_divides_what_is_kept_by_how_much_of_it_was_seen(figures):
    told = figures["batch_norm"]
    norm, state = make_norm()
    for step in range(3):
        x = drawn(f"input {step}", SHAPE)
        _, state = over_batch(norm, jnp.asarray(x), state)
        out, _ = over_batch(eqx.nn.inference_mode(norm), jnp.asarray(x), state)
        left = MOMENTUM ** (step + 1)
        mean = np.asarray(told["running_mean"][step]) / (1 - left)
        biased = (np.asarray(told["running_var"][step]) - left) * (EXAMPLES - 1) / EXAMPLES
        close(out, by_hand(norm, x, mean, (left + biased) / (1 - left)))


def test_with_pytorchs_statistics_training_goes_on(figures):
    # A count of very many steps, so that the next one does not take what came before for a start.
    told = figures["batch_norm"]
    norm, state = make_norm()
    state = with_statistics(norm, state, told["running_mean"][1], told["running_var"][1], 1000)
    _, state = over_batch(norm, jnp.asarray(drawn("input 2", SHAPE)), state)
    mean, var = state.get(norm.batch_state_index)
    kept = MOMENTUM * np.asarray(told["running_var"][1])
    close(mean, told["running_mean"][2])
    close(kept + (var - kept) * EXAMPLES / (EXAMPLES - 1), told["running_var"][2])


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_half_precision_is_normalised_in_single(dtype, atol):
    norm, state = make_norm()
    x = jnp.asarray(100 + drawn("input 0", SHAPE)).astype(dtype)
    exact, new = over_batch(norm, x.astype("float32"), state)
    half = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, norm)
    out, new_half = over_batch(half, x, state)
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, "float32"), exact, atol=atol)
    for ours, theirs in zip(jax.tree.leaves(new_half), jax.tree.leaves(new), strict=True):
        assert ours.dtype == theirs.dtype
        # Bit for bit: squares of these numbers, which half precision has no digits for, are single.
        np.testing.assert_array_equal(ours, theirs)


class Small(eqx.Module):
    """One convolution with a batch norm, and a readout."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    readout: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 4, 3, padding=1, use_bias=False, key=one)
        self.norm = eqx.nn.BatchNorm(4, "batch", momentum=MOMENTUM, mode="batch")
        self.readout = eqx.nn.Linear(4, 3, key=two)

    def __call__(self, x, state):
        out, state = self.norm(self.conv(x), state)
        return self.readout(jnp.mean(jax.nn.relu(out), axis=(1, 2))), state


def layers_of(model):
    return [("conv1", model.conv), ("bn1", model.norm), ("fc", model.readout)]


def loss_fn(model, model_state, example, key):
    x, y = example
    logits, model_state = model(x, model_state)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y), model_state


def test_three_steps_of_a_network_are_pytorchs(figures):
    told = figures["training"]
    model, model_state = eqx.nn.make_with_state(Small)(jax.random.key(0))
    step = TrainStep(loss_fn, optax.sgd(0.1, momentum=0.9), stateful=True)
    state = step.init(filled(model, layers_of), model_state=model_state, key=jax.random.key(0))
    losses = []
    for at in range(3):
        batch = drawn(f"input {at}", (8, 1, 5, 5)), labels_of(8, 3)
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    close(losses, told["losses"])
    parameters = parameters_of(state.model, layers_of)
    mean, var = statistics_of(state.model.norm, state.model_state, 8 * 5 * 5)
    ours = {**parameters, "bn1.running_mean": mean, "bn1.running_var": var}
    assert ours.keys() == told["state_dict"].keys()
    for name, theirs in told["state_dict"].items():
        close(ours[name], theirs)
