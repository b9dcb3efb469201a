"""States, figures, files and positions under the laws that users get for their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import Net, loss_fn, make_batch

import treadle
from treadle._weighted import as_total, figure, reduce_examples
from treadle.testing import (
    check_lens,
    check_monoid,
    check_resume,
    check_roundtrip,
    check_serialisation,
    check_structure,
    modules,
    pytrees,
    train_states,
)

few = settings(max_examples=10)


@given(train_states())
def test_a_state_is_its_leaves_and_its_structure(state):
    structure = jax.tree.structure(state)
    check_roundtrip(jax.tree.leaves, lambda leaves: jax.tree.unflatten(structure, leaves), state)
    check_structure(lambda state: state.copy(), state)
    assert not treadle.tree.diff(state.copy(), state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    # Leaves may be anything that a map puts there, and the views have it.
    marked = jax.tree.map(lambda _: "mark", state)
    assert set(jax.tree.leaves(marked)) == {"mark"}
    assert "mark" in jax.tree.leaves(marked.model)


@given(train_states(), st.integers(0, 1000), st.integers(0, 1000))
def test_the_views_of_a_state_are_lenses(state, one, two):
    check_lens(
        lambda state: state.step,
        lambda state, step: state.replace(step=step),
        state,
        jnp.int32(one),
        jnp.int32(two),
    )

    check_lens(
        lambda state: state.model,
        lambda state, model: state.replace(model=model),
        state,
        scaled(2, state.model),
        scaled(-1, state.model),
    )

    check_lens(
        lambda state: state.key,
        lambda state, key: state.replace(key=key),
        state,
        jax.random.key(one),
        jax.random.key(two),
    )
    average = state.ema_model
    if average is not None:
        check_lens(
            lambda state: state.ema_model,
            lambda state, average: state.replace(ema_model=average),
            state,
            scaled(2, average),
            scaled(-1, average),
        )


@given(train_states())
def test_a_view_is_what_stands_under_its_name(state):
    flat = treadle.tree.to_dict(state)
    for name in ("model", "opt_state"):
        inside = treadle.tree.to_dict(getattr(state, name)).items()
        view = {f"{name}/{path}": leaf for path, leaf in inside if isinstance(leaf, jax.Array)}
        assert view.keys() == {path for path in flat if path.startswith(f"{name}/")}
        assert all(flat[path] is leaf for path, leaf in view.items())
    # Those of a layer's state have names of Equinox's.
    of_layers = [leaf for path, leaf in flat.items() if path.startswith("model_state/")]
    in_view = jax.tree.leaves(state.model_state)
    assert list(map(id, in_view)) == list(map(id, of_layers))
    assert state.step is flat["step"]
    np.testing.assert_array_equal(jax.random.key_data(state.key), flat["key"])


@given(train_states())
def test_replacing_a_view_leaves_the_others_alone(state):
    views = {
        "model": scaled(-1, state.model),
        "opt_state": scaled(-1, state.opt_state),
        "key": jax.random.key(7),
        "step": state.step - 1,
    }
    for name, value in views.items():
        found = treadle.tree.diff(state.replace(**{name: value}), state)
        assert {path.partition("/")[0] for path in found.paths} <= {name}


@given(train_states())
def test_copies_and_what_is_replaced_have_memory_of_their_own(state):
    for leaf in jax.tree.leaves(state.copy()):
        leaf.delete()
    assert not state.is_consumed
    model = scaled(2, state.model)
    for leaf in jax.tree.leaves(state.replace(model=model).model):
        if isinstance(leaf, jax.Array):
            leaf.delete()
    assert not state.is_consumed
    arrays = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
    assert not any(leaf.is_deleted() for leaf in arrays)


def scaled(by, tree):
    return jax.tree.map(lambda x: x * by if _is_float(x) else x, tree)


def _is_float(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


# Small whole numbers add up without rounding.
wholes = st.integers(-50, 50).map(float)


@given(st.lists(st.tuples(wholes, st.integers(0, 20).map(float)), min_size=1, max_size=3))
def test_weighted_figures_merge_in_any_grouping(pairs):
    totals = [as_total("figure", treadle.Weighted(*map(np.float32, pair))) for pair in pairs]
    nothing = as_total("figure", treadle.Weighted(np.float32(0), np.float32(0)))

    def merge(one, two):
        return jax.tree.map(jnp.add, one, two)

    check_monoid(merge, totals, identity=nothing, commutative=True)
    whole = totals[0]
    for total in totals[1:]:
        whole = merge(whole, total)
    weight = sum(pair[1] for pair in pairs)
    expected = sum(value * own for value, own in pairs) / weight if weight else 0.0
    np.testing.assert_allclose(figure(whole), expected, rtol=1e-6)


counts = st.integers(0, 20).map(float)


@given(st.lists(st.tuples(wholes, counts, st.sampled_from([0.0, 1.0])), min_size=1, max_size=3))
def test_the_figure_of_a_batch_is_the_mean_over_its_rows(rows):
    values, weights, there = np.float32(rows).T  # Rows that only fill the batch up are not there.

    def mean(values, weights):
        one = lambda *row: as_total("figure", treadle.Weighted(*row[:2]), row[2])
        return figure(reduce_examples(jax.vmap(one)(values, weights, there)))

    whole, (by_value, by_weight) = jax.value_and_grad(mean, argnums=(0, 1))(values, weights)
    total = np.sum(weights * there)
    share = weights * there / total if total else np.zeros_like(weights)
    np.testing.assert_allclose(whole, np.sum(values * share), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_value, share, rtol=1e-5)
    np.testing.assert_array_equal(by_weight, 0)


@given(st.lists(st.lists(wholes, min_size=2, max_size=2), min_size=1, max_size=3))
def test_sums_merge_in_any_grouping(arrays):
    totals = [as_total("sum", treadle.Sum(np.float32(array))) for array in arrays]
    nothing = as_total("sum", treadle.Sum(np.zeros(2, np.float32)))

    def merge(one, two):
        return jax.tree.map(jnp.add, one, two)

    check_monoid(merge, totals, identity=nothing, commutative=True)
    whole = nothing
    for total in totals:
        whole = merge(whole, total)
    np.testing.assert_array_equal(figure(whole), np.sum(arrays, axis=0))


@few
@given(st.one_of(modules(special=True), pytrees(special=True), train_states()))
def test_what_is_saved_is_loaded(tree):
    check_serialisation(tree)


def test_an_interrupted_run_of_steps_is_one_without_interruption():
    step = treadle.TrainStep(
        loss_fn,
        optax.chain(optax.clip_by_global_norm(1.0), optax.noisy_sgd(1e-2, key=3)),
        ema=0.9,
        accumulate=2,
    )
    state = step.init(Net, key=jax.random.key(0))
    check_resume(step, state, [make_batch(seed=seed) for seed in range(3)])


@given(
    num_examples=st.integers(4, 9),
    batch_size=st.integers(1, 3),
    epochs=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_the_position_of_data_is_where_it_goes_on(num_examples, batch_size, epochs, seed):
    data = {"x": np.arange(num_examples)}

    def source():
        key = jax.random.key(seed)
        batches = treadle.data.arrays(data, batch_size, key=key, epochs=epochs)
        return treadle.data.prefetch(batches) if seed % 2 else batches

    def step(state, batch):
        # What has been seen, in order.
        seen = np.pad(batch["x"], (0, 3 - len(batch["x"])))
        return np.concatenate([state[3:], seen]), {"seen": batch["x"]}

    check_resume(step, np.zeros(60, np.int64), source, at=1)
