"""All contenders compute the same thing, those of ours to the last digits."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from benchmarks._configs import CONFIGS, Config
from benchmarks.contenders import (
    CONTENDERS,
    Contender,
    equinox_loop,
    floor_members,
    treadle_ensemble,
)

SMALL = {
    "mlp": dataclasses.replace(CONFIGS["leafy"], batch_size=4, input_size=6, width=5, depth=3),
    "dropout": dataclasses.replace(
        CONFIGS["ref"], batch_size=4, input_size=6, width=5, depth=3, dropout=0.5
    ),
    "transformer": dataclasses.replace(
        CONFIGS["tf"], batch_size=2, input_size=8, width=8, depth=1, num_heads=2, num_tokens=3
    ),
    "resnet": dataclasses.replace(CONFIGS["resnet"], batch_size=4, input_size=6, width=2, depth=2),
}
# One for each library's models: the rest of a library's contenders train the same ones.
FAMILIES = ("treadle-step", "linen", "nnx-split", "haiku", "keras")
# Those that train one model, with nothing special about the step.
SINGLE = {
    name: entry
    for name, entry in CONTENDERS.items()
    if entry.module != "treadle_options" and not entry.arguments
}
OURS = [name for name, entry in SINGLE.items() if entry.ours and name != "floor-bare"]
# PyTorch and Lightning take seconds to import: where they are installed, the race shows it.
PEERS = [name for name, c in SINGLE.items() if not c.ours and "torch" not in c.requires]
OPTIONS = [entry.arguments[0] for entry in CONTENDERS.values() if entry.module == "treadle_options"]


@pytest.fixture(autouse=True)
def _loose_jax():
    """Peers, and the floors as one would write them, are not made for strict JAX."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def losses(name, config, steps=50):
    obstacle = CONTENDERS[name].obstacle(config)
    if obstacle is not None:
        pytest.skip(obstacle)
    return trained(CONTENDERS[name].build(config), steps)


def trained(run, steps=50):
    before = run.loss()
    run.run(steps)
    return before, run.loss()


@pytest.fixture
def short_calls(monkeypatch):
    """Fewer unrolled steps to compile."""
    monkeypatch.setattr(Config, "steps_per_call", 2)


@pytest.fixture(scope="module")
def reference():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {kind: losses("floor", config) for kind, config in SMALL.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "mlp") for name in PEERS),
        *((name, "transformer") for name in FAMILIES),
        *((name, "resnet") for name in FAMILIES if name != "treadle-step"),
        ("equinox-donated", "resnet"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_same_losses(name, kind, reference):
    if name.startswith("nnx") and not hasattr(pytest.importorskip("flax.nnx"), "List"):
        pytest.skip("the NNX contenders are written for Flax 0.12")
    before, after = losses(name, SMALL[kind])
    assert before == pytest.approx(reference[kind][0], rel=1e-5)
    # Keras counts its epsilon differently.
    assert after == pytest.approx(reference[kind][1], rel=1e-2 if "keras" in name else 1e-4)
    assert abs(after - before) > 1e-2


@pytest.mark.parametrize("name", [name for name in OURS if name != "floor"])
def test_same_losses_and_draws_as_the_floor(name, reference):
    before, after = losses(name, SMALL["dropout"])
    assert before == pytest.approx(reference["dropout"][0], rel=1e-6)
    assert after == pytest.approx(reference["dropout"][1], rel=1e-5)


@pytest.mark.parametrize(
    "name", ["floor-bare", "floor-scan", "floor-scan-stacking", "treadle-scan"]
)
def test_same_losses_with_a_state(name, reference, short_calls):
    before, after = losses(name, SMALL["resnet"])
    assert before == pytest.approx(reference["resnet"][0], rel=1e-6)
    assert after == pytest.approx(reference["resnet"][1], rel=1e-4)


def test_the_floor_and_ours_have_one_loss_and_the_same_running_averages():
    floor, ours = (CONTENDERS[name].build(SMALL["resnet"]) for name in ("floor", "treadle-step"))
    assert trained(ours) == pytest.approx(trained(floor), rel=1e-4)
    averages = floor.flat.split(floor.leaves)[2]
    means = [leaf for leaf in jax.tree.leaves(ours.state.model_state) if leaf.ndim]
    assert len(averages) == len(means) == 2 * 6
    # The order of the layers is their own.
    assert sorted(float(jnp.sum(leaf)) for leaf in averages) == pytest.approx(
        sorted(float(jnp.sum(leaf)) for leaf in means), rel=1e-4
    )


# How far from the plain step a run with the option may come out, and how far it must.
FAR = {
    "plain": (0, 2e-6),
    "raise": (0, 2e-6),
    "skip": (0, 2e-6),
    "ema": (0, 2e-6),
    "undonated": (0, 2e-6),
    "hyperparams": (0, 1e-5),
    "accumulate-4": (0, 1e-5),
    "fp16": (1e-7, 1e-2),
    "bf16": (1e-6, 3e-2),
    "bf16-params": (1e-6, 1e-1),
    "half": (1e-3, 1),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_train(option, reference):
    run = CONTENDERS[f"step-{option}"].build(SMALL["mlp"])
    first = run.state.copy()
    passed = run.state
    before, after = trained(run)
    least, most = FAR[option]
    # Some round the first weights.
    assert before == pytest.approx(reference["mlp"][0], rel=1e-2)
    assert least <= abs(after / reference["mlp"][1] - 1) <= most
    assert passed.leaves[0].is_deleted() == (option != "undonated")
    CHECKS.get(option, lambda run, first: None)(run, first)


def test_half_of_a_stateful_model():
    before, after = losses("step-half", SMALL["resnet"])
    assert before - after > 1e-2


def _averaged(run, first):
    assert not eqx.tree_equal(run.state.ema_model, run.state.model)


def _in_bfloat16(run, first):
    assert {leaf.dtype for leaf in _arrays(run.state.model)} == {jnp.dtype("bfloat16")}


def _later_half(run, first):
    pairs = zip(_arrays(first.model), _arrays(run.state.model), strict=True)
    assert [bool(jnp.any(old != new)) for old, new in pairs] == [False] * 3 + [True] * 3


def _injected(run, first):
    assert float(run.state.opt_state.hyperparams["learning_rate"]) == pytest.approx(1e-3)


def _split_in_four(run, first):
    with pytest.raises(ValueError, match="`accumulate` \\(=4\\)"):
        run.step(first, jax.tree.map(lambda leaf: leaf[:3], run.batches[0]))


def _after_a_nan(run):
    inputs, labels = run.batches[0]
    run.state, _ = run.step(run.state, (inputs * jnp.nan, labels))
    return any(bool(jnp.isnan(leaf).any()) for leaf in _arrays(run.state.model))


def _ignores(run, first):
    assert _after_a_nan(run)
    run.step.check(run.state)


def _raises(run, first):
    assert _after_a_nan(run)
    with pytest.raises(FloatingPointError, match="is NaN or infinite"):
        run.step.check(run.state)


def _skips(run, first):
    assert not _after_a_nan(run)


CHECKS = {
    "plain": _ignores,
    "raise": _raises,
    "skip": _skips,
    "ema": _averaged,
    "bf16-params": _in_bfloat16,
    "half": _later_half,
    "hyperparams": _injected,
    "accumulate-4": _split_in_four,
}


def _arrays(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


ENSEMBLES = {
    "floor-members": floor_members.build,
    "floor-vmap": floor_members.build_mapped,
    "equinox-members": equinox_loop.build_members,
    "treadle-ensemble": treadle_ensemble.build,
    "treadle-ensemble-scan": treadle_ensemble.build_scan,
}


@pytest.fixture(scope="module")
def members():
    """The mean losses of three models, each trained alone."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        alone = [
            trained(equinox_loop.EquinoxLoop(SMALL["mlp"], "none", member)) for member in range(3)
        ]
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)
    return [sum(values) / 3 for values in zip(*alone, strict=True)]


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_are_their_members(name, members):
    assert trained(ENSEMBLES[name](SMALL["mlp"], 3)) == pytest.approx(members, rel=1e-4)


def test_other_draws_give_another_loss(reference):
    after = losses("floor-bare", SMALL["dropout"])[1]
    assert after != pytest.approx(reference["dropout"][1], rel=1e-4)


def test_obstacle_names_the_module_or_says_why_not():
    contender = Contender("x", "floor", "", requires=("json", "no_such_module"))
    assert contender.obstacle(SMALL["mlp"]) == "no_such_module is not installed"
    suited = dataclasses.replace(contender, requires=("json",), unsuited={"resnet": "too large"})
    assert suited.obstacle(SMALL["mlp"]) is None
    assert suited.obstacle(SMALL["resnet"]) == "too large"


def test_a_contender_is_built_with_its_arguments():
    run = Contender("x", "floor_members", "", "build_mapped", arguments=(2,)).build(SMALL["mlp"])
    assert run.size == 2
