"""States across changes of a model: what a step goes on with."""

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_same, loss_fn, make_batch
from treadle import ArgumentTypeError, ConsumedStateError, NonFiniteError, TrainStep, TreeError

KEY = jax.random.key(0)
STEP = TrainStep(loss_fn, optax.adamw(1e-2), ema=0.9)
OTHER_HEAD = eqx.nn.Linear(8, 3, key=jax.random.key(5))
LARGER_HEAD = eqx.nn.Linear(8, 4, key=jax.random.key(6))


def net():
    return Net(jax.random.key(1))


def with_head(model, head):
    return eqx.tree_at(lambda m: m.last, model, head)


def filled(state):
    """The state with other values in every leaf, as in the middle of a training."""

    def other(path, leaf):
        values = np.arange(leaf.size).reshape(leaf.shape) + 3 * len(path) + 1
        return jnp.asarray(values.astype(leaf.dtype))

    leaves = [other(*item) for item in zip(state.leaf_paths(), state.leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def by_path(state):
    return dict(zip(state.leaf_paths(), state.leaves, strict=True))


def trained(steps=2):
    state = STEP.init(net(), key=KEY)
    for seed in range(steps):
        state, _ = STEP(state, make_batch(seed=seed))
    return state


def buffers(*trees):
    leaves = [leaf for leaf in jax.tree.leaves(trees) if eqx.is_array(leaf) and leaf.size]
    return [leaf.unsafe_buffer_pointer() for leaf in leaves]


def test_a_head_grows():
    state = trained()
    kept = state.copy()
    model = with_head(state.model, LARGER_HEAD)
    grown = STEP.migrate(state, model)
    assert grown.skeleton is STEP.init(model, key=KEY).skeleton
    before, after = by_path(state), by_path(grown)
    assert len(set(buffers(state, model, grown))) == len(buffers(state, grown, LARGER_HEAD))
    for path, leaf in after.items():
        if path.startswith("model/last"):
            assert_same(leaf, by_path(STEP.init(model, key=KEY))[path])
        elif "/last/" in path:
            assert_same(leaf, jnp.zeros(leaf.shape))
        elif not path.startswith("ema_model"):
            assert_same(leaf, before[path])
    assert_same(grown.ema_model.first, state.ema_model.first)
    assert_same(grown.ema_model.last, LARGER_HEAD)
    # Nothing is shared: a step takes the new state, and leaves the others.
    further, _ = STEP(grown, make_batch(classes=4))
    assert grown.is_consumed
    assert_same(state, kept)
    assert_same(model, with_head(kept.model, LARGER_HEAD))
    assert int(further.step) == 3
    # The average goes on: bias-corrected for what was there, from its own value for what is new.
    weight = 0.1 / (1 - 0.9**3)
    for old, new, mean in zip(
        jax.tree.leaves(eqx.filter((kept.ema_model.first, LARGER_HEAD), eqx.is_array)),
        jax.tree.leaves(eqx.filter((further.model.first, further.model.last), eqx.is_array)),
        jax.tree.leaves(
            eqx.filter((further.ema_model.first, further.ema_model.last), eqx.is_array)
        ),
        strict=True,
    ):
        expected = old + np.float32(weight) * (new - old)
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_what_did_not_change_goes_on_to_the_same_bits():
    state = trained()
    same = STEP.migrate(state, state.model)
    assert_same(same, state)
    compiled = len(STEP.compilations)
    straight, _ = STEP(state, make_batch(seed=7))
    after, _ = STEP(same, make_batch(seed=7))
    assert_same(after, straight)
    # Nor does another head of the same shape take another program.
    begun = STEP.migrate(after, with_head(after.model, OTHER_HEAD))
    assert_same(begun.model.last, OTHER_HEAD)
    assert_same(begun.opt_state[0].mu.last.weight, jnp.zeros((3, 8)))
    STEP(begun, make_batch(seed=8))
    assert len(STEP.compilations) == compiled


def test_copies_are_known_by_their_bits(tmp_path):
    state = filled(STEP.init(net(), key=KEY))
    expected = STEP.migrate(state, with_head(state.model, LARGER_HEAD))
    copied = STEP.migrate(state, with_head(state.copy().model, LARGER_HEAD))
    assert_same(copied, expected)
    treadle.save(tmp_path / "state", state)
    loaded = treadle.load(tmp_path / "state", STEP.init(net(), key=KEY))
    assert_same(STEP.migrate(loaded, with_head(state.model, LARGER_HEAD)), expected)
    on_host = jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, state.model)
    assert_same(STEP.migrate(state, with_head(on_host, LARGER_HEAD)), expected)


def test_it_goes_through_transformations():
    state = filled(STEP.init(net(), key=KEY))

    def grown(state):
        return STEP.migrate(state, with_head(state.model, LARGER_HEAD))

    shapes = eqx.filter_eval_shape(grown, state)
    result = grown(state)
    assert jax.tree.structure(shapes) == jax.tree.structure(result)
    for a, b in zip(shapes.leaves, result.leaves, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_layers_that_are_two_leaves_get_memory_of_their_own():
    step = TrainStep(lambda m, x, key: jnp.sum(m["a"] * x), optax.trace(0.9))
    state = filled(step.init({"a": np.ones(3, np.float32)}, key=KEY))
    doubled = step.migrate(state, {"a": state.model["a"], "b": state.model["a"]})
    assert len(set(buffers(state, doubled))) == len(buffers(state, doubled))
    assert_same(doubled.opt_state.trace["b"], state.opt_state.trace["a"])
    assert_same(doubled.opt_state.trace["a"], state.opt_state.trace["a"])


# -- precision ------------------------------------------------------------------------------------


def test_the_loss_scale_and_the_count_of_skipped_steps_are_kept():
    step = TrainStep(loss_fn, optax.adam(1e-2), precision="fp16")
    state = filled(step.init(net(), key=KEY))
    grown = step.migrate(state, with_head(state.model, LARGER_HEAD))
    assert grown.skeleton is step.init(with_head(net(), LARGER_HEAD), key=KEY).skeleton
    before, after = by_path(state), by_path(grown)
    for path in ("loss_scale/scale", "loss_scale/finite_steps", "skipped", "step", "key"):
        assert_same(after[path], before[path])
    # Another scale begins where it begins, and what no step keeps is gone.
    small = treadle.Precision("float32", "float16", loss_scale=treadle.LossScale(2.0**4))
    other = TrainStep(loss_fn, optax.adam(1e-2), precision=small)
    assert float(other.migrate(state, state.model, old_step=step).loss_scale) == 2.0**4
    assert_same(other.migrate(state, state.model, old_step=step).skipped, state.skipped)
    plain = TrainStep(loss_fn, optax.adam(1e-2))
    moved = plain.migrate(state, state.model, old_step=step)
    assert moved.skeleton is plain.init(net(), key=KEY).skeleton
    assert_same(moved.opt_state, state.opt_state)
    back = step.migrate(moved, moved.model, old_step=plain)
    assert back.skeleton is state.skeleton
    assert (float(back.loss_scale), int(back.skipped)) == (2.0**15, 0)
    # Without a word about the step that made it.
    assert float(step.migrate(moved, moved.model).loss_scale) == 2.0**15


def test_the_optimizer_sees_float32_of_a_model_in_bfloat16():
    step = TrainStep(loss_fn, optax.adam(1e-2), precision="bf16-true")
    state = filled(step.init(net(), key=KEY))
    grown = step.migrate(state, with_head(state.model, LARGER_HEAD))
    assert grown.skeleton is step.init(with_head(net(), LARGER_HEAD), key=KEY).skeleton
    assert grown.model.last.weight.dtype == jnp.bfloat16
    assert_same(grown.opt_state[0].mu.first, state.opt_state[0].mu.first)
    assert_same(grown.opt_state[0].mu.last.weight, jnp.zeros((4, 8)))
    # Known by the bits that it has in the state's format.
    wide = jax.tree.map(lambda x: x.astype(np.float32) if eqx.is_array(x) else x, state.model)
    assert_same(step.migrate(state, wide), state)
    assert state.model.first.bias.dtype == ml_dtypes.bfloat16


# -- a step after another -------------------------------------------------------------------------


def test_layers_freeze_and_thaw():
    head = TrainStep(loss_fn, optax.adam(1e-2), trainable="last/**", ema=0.9)
    whole = TrainStep(loss_fn, optax.adam(1e-2), ema=0.9)
    state = filled(head.init(net(), key=KEY))
    thawed = whole.migrate(state, state.model, old_step=head)
    assert thawed.skeleton is whole.init(net(), key=KEY).skeleton
    assert_same(thawed.opt_state[0].mu.last, state.opt_state[0].mu.last)
    assert_same(thawed.opt_state[0].mu.first.weight, jnp.zeros((8, 6)))
    assert_same(thawed.ema_model.last, state.ema_model.last)
    assert_same(thawed.ema_model.first, state.model.first)
    frozen = head.migrate(thawed, thawed.model, old_step=whole)
    assert_same(frozen, state)


def test_an_average_begins_and_ends():
    plain = TrainStep(loss_fn, optax.adamw(1e-2))
    state = filled(STEP.init(net(), key=KEY))
    without = plain.migrate(state, state.model, old_step=STEP)
    assert without.skeleton is plain.init(net(), key=KEY).skeleton
    again = STEP.migrate(without, without.model, old_step=plain)
    assert_same(again.ema_model, state.model)
    assert int(by_path(again)["ema_updates"]) == 0
    assert_same(again.opt_state, state.opt_state)


def test_the_state_of_another_step_is_refused():
    state = filled(STEP.init(net(), key=KEY))
    sgd = TrainStep(loss_fn, optax.sgd(1e-2, momentum=0.9))
    with pytest.raises(TreeError, match=r"it has '0/count'.* say which one made it: `new_step"):
        sgd.migrate(state, state.model)
    assert_same(sgd.migrate(state, state.model, old_step=STEP).step, state.step)
    averages = [
        TrainStep(loss_fn, optax.sgd(1e-2), ema=0.9, trainable=t) for t in ("**", "last/**")
    ]
    state = averages[1].init(net(), key=KEY)
    with pytest.raises(TreeError, match=r"averages other leaves than this step trains"):
        averages[0].migrate(state, state.model)
    assert averages[0].migrate(state, state.model, old_step=averages[1]).ema_model is not None


# -- layers with a state --------------------------------------------------------------------------


class Stateful(eqx.Module):
    layers: list
    last: eqx.nn.Linear

    def __init__(self, key=None):
        norms = [eqx.nn.BatchNorm(4, "batch", mode="batch") for _ in range(2)]
        self.layers = [eqx.nn.Linear(4, 4, key=jax.random.key(1)), *norms]
        self.last = eqx.nn.Linear(4, 2, key=jax.random.key(2))


def stateful_loss(model, model_state, example, key):
    raise NotImplementedError


STATEFUL = TrainStep(stateful_loss, optax.adam(1e-2), stateful=True)


def norms(count):
    """Norms that are made together, away from any model, and their state."""
    make = lambda: {"new": [eqx.nn.BatchNorm(4, "batch", mode="batch") for _ in range(count)]}
    made, state = eqx.nn.make_with_state(make)()
    return made["new"], state


def test_layers_keep_their_state_and_new_ones_bring_theirs():
    state = filled(STATEFUL.init(eqx.nn.make_with_state(Stateful), key=KEY))
    model, norm = state.model, state.model.layers[1]
    grown = STATEFUL.migrate(state, with_head(model, eqx.nn.Linear(4, 3, key=KEY)))
    assert_same(grown.model_state, state.model_state)
    # Those that were there go, others come.
    new, new_state = norms(3)
    changed = eqx.tree_at(lambda m: m.layers, model, new)
    with pytest.raises(TreeError, match=r"with a state, .*'layers/2/batch_counter'.*model_state="):
        STATEFUL.migrate(state, changed)
    moved = STATEFUL.migrate(state, changed, model_state=new_state)
    assert moved.skeleton is STATEFUL.init(changed, key=KEY, model_state=new_state).skeleton
    assert_same(moved.model_state, new_state)
    # One goes, and nothing of it is left; one moves.
    fewer = eqx.tree_at(lambda m: m.layers, model, [model.layers[2], model.layers[0]])
    moved = STATEFUL.migrate(state, fewer)
    assert_same(
        moved.model_state.get(moved.model.layers[0].batch_counter),
        state.model_state.get(model.layers[2].batch_counter),
    )
    with pytest.raises(KeyError):
        moved.model_state.get(norm.batch_counter)
    # What is handed over goes before what was there, and is not used up.
    begun = STATEFUL.init(eqx.nn.make_with_state(Stateful), key=KEY).model_state
    part = begun.substate(norm)
    reset = STATEFUL.migrate(state, model, model_state=part).model_state
    assert_same(reset.get(norm.batch_counter), begun.get(norm.batch_counter))
    other = model.layers[2].batch_counter
    assert_same(reset.get(other), state.model_state.get(other))
    assert_same(part.get(norm.batch_counter), begun.get(norm.batch_counter))


def test_layers_that_would_share_a_state_are_refused():
    state = STATEFUL.init(eqx.nn.make_with_state(Stateful), key=KEY)
    (one,), one_state = norms(1)
    (two,), _ = norms(1)
    both = eqx.tree_at(lambda m: m.layers, state.model, [one, two])
    with pytest.raises(TreeError, match=r"'layers/0/batch_c.* and 'layers/1/batch_c.* share one"):
        STATEFUL.migrate(state, both, model_state=one_state)
    # Those that share from the start may go on.
    shared = STATEFUL.init(
        eqx.tree_at(lambda m: m.layers, both, [one, one]), key=KEY, model_state=one_state
    )
    assert_same(STATEFUL.migrate(shared, shared.model).model_state, one_state)


def test_states_of_other_kinds():
    own = TrainStep(stateful_loss, optax.trace(0.9), stateful=True)
    state = own.init({"a": np.ones(2, np.float32)}, key=KEY, model_state={"n": jnp.ones(3)})
    state = filled(state)
    assert_same(own.migrate(state, state.model).model_state, state.model_state)
    given = own.migrate(state, state.model, model_state={"n": jnp.zeros(3)})
    assert_same(given.model_state, {"n": jnp.zeros(3)})
    # A model gets its first layers with a state, and loses its last.
    plain = TrainStep(loss_fn, optax.adam(1e-2))
    model, model_state = eqx.nn.make_with_state(Stateful)()
    before = plain.init(model.last, key=KEY)
    with pytest.raises(ArgumentTypeError, match="`model_state` is missing"):
        STATEFUL.migrate(before, model, old_step=plain)
    after = STATEFUL.migrate(before, model, old_step=plain, model_state=model_state)
    assert_same(after.model_state, model_state)
    last = plain.migrate(after, after.model.last, old_step=STATEFUL)
    assert last.model_state is None
    with pytest.raises(ArgumentTypeError, match="the step's loss takes none"):
        plain.migrate(before, model.last, model_state=model_state)


# -- ensembles, faults, arguments -----------------------------------------------------------------


def test_members_of_an_ensemble_migrate_one_by_one():
    step = TrainStep(loss_fn, optax.trace(0.9))
    both = treadle.ensemble(step, 2)
    single = filled(step.init({"a": np.ones(2, np.float32)}, key=KEY))
    state = treadle.tree.stack([single, single])
    for wrong in (both, step):
        with pytest.raises(TreeError, match=r"is for the state of a single run.*treadle.tree.unst"):
            wrong.migrate(state, state.model)
    with pytest.raises(TreeError, match=r"is for the state of a single run"):
        both.migrate(single, single.model)
    with pytest.raises(TreeError, match=r"is for the state of a single run"):
        step.migrate(single, single.model, old_step=both)

    def grown(member):
        return step.migrate(member, {**member.model, "b": jnp.ones(3)})

    whole = treadle.tree.stack([grown(member) for member in treadle.tree.unstack(state)])
    assert whole.members == 2
    assert_same(whole.opt_state.trace["a"], state.opt_state.trace["a"])
    assert_same(whole.opt_state.trace["b"], jnp.zeros((2, 3)))


def test_a_fault_stays_to_be_told():
    state = trained(1)
    model = eqx.tree_at(lambda m: m.first.bias, state.model, jnp.full(8, np.nan))
    state, _ = STEP(state.replace(model=model), make_batch())
    grown = STEP.migrate(state, with_head(state.model, LARGER_HEAD))
    with pytest.raises(NonFiniteError, match="of step 1"):
        STEP.check(grown)


def test_strange_arguments_are_refused():
    state = filled(STEP.init(net(), key=KEY))
    with pytest.raises(ArgumentTypeError, match="`state` is a Net, not a `TrainState`"):
        STEP.migrate(net(), net())
    with pytest.raises(ArgumentTypeError, match="`old_step` is a str, not a `TrainStep`"):
        STEP.migrate(state, net(), old_step="adam")
    with pytest.raises(ArgumentTypeError, match=r"`new_model` \(=<function.*hand over the model"):
        STEP.migrate(state, lambda key: net())
    with pytest.raises(TreeError, match="no trainable leaves"):
        STEP.migrate(state, {"a": 1})


def test_what_a_step_has_taken_is_refused():
    state = trained(1)
    model, copy = state.model, state.copy()
    STEP(state, make_batch(seed=1))
    with pytest.raises(ConsumedStateError, match="was consumed"):
        STEP.migrate(state, model)
    with pytest.raises(ConsumedStateError, match=r"'first/weight' of `new_model` is gone"):
        STEP.migrate(copy, model)
