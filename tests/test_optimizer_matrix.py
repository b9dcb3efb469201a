"""A contract that every optimizer and wrapper of optax is held to, and those that cannot be."""

import functools
import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import treadle
from tests.docs.pages import ROOT
from tests.helpers import assert_same
from treadle import TrainStep

PAGE = ROOT / "docs" / "guides" / "optimizers.md"

# How each is made; with a learning rate where it has one.


def sgd():
    return optax.sgd(0.1, momentum=0.9)


def everything(params):
    return jax.tree.map(lambda _: True, params)


def later(step, **_):
    return step > 0


def adversary():
    return optax.chain(optax.contrib.normalize(), optax.sgd(0.05))


def muon_axes():
    """Which axes of a weight are which: older versions of optax take the two that there are."""
    if not hasattr(optax.contrib, "MuonDimensionNumbers"):
        return {}
    numbers = optax.contrib.MuonDimensionNumbers(0, 1)
    return {"weight_dimension_numbers": lambda params: jax.tree.map(lambda _: numbers, params)}


RATED = [
    *("adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw"),
    *("adan", "amsgrad", "fromage", "lamb", "lars", "lion", "nadam", "nadamw", "scale_by_rprop"),
    *("novograd", "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent"),
    *("polyak_sgd", "radam", "rmsprop", "rprop", "sgd", "sign_sgd", "signum", "sm3", "yogi"),
    *("acprop", "ademamix", "adopt", "cocob", "dadapt_adamw", "dog", "dowg", "madgrad", "momo"),
    *("momo_adam", "muon", "prodigy", "schedule_free_adamw", "schedule_free_sgd"),
    *("simplified_ademamix", "sophia", "scale_by_madgrad", "scale_by_learning_rate"),
    *("lbfgs",),
]
BARE = [
    *("centralize", "identity", "keep_params_nonnegative", "normalize_by_update_norm"),
    *("scale_by_adadelta", "scale_by_adam", "scale_by_adamax", "scale_by_adan"),
    *("scale_by_amsgrad", "scale_by_belief", "scale_by_distance_over_gradients"),
    *("scale_by_factored_rms", "scale_by_lbfgs", "scale_by_lion", "scale_by_novograd"),
    *("scale_by_optimistic_gradient", "scale_by_param_block_norm", "scale_by_param_block_rms"),
    *("scale_by_polyak", "scale_by_radam", "scale_by_rms", "scale_by_rss"),
    *("scale_by_sign", "scale_by_sm3", "scale_by_stddev", "scale_by_trust_ratio"),
    *("scale_by_yogi", "set_to_zero", "zero_nans", "apply_every"),
    *("hutchinson_estimator_diag_hessian", "normalize", "reduce_on_plateau"),
    *("scale_by_acprop", "scale_by_ademamix", "scale_by_adopt", "scale_by_cocob"),
    *("scale_by_simplified_ademamix",),
]
OTHERS = {
    "adaptive_grad_clip": lambda: optax.chain(optax.adaptive_grad_clip(0.1), sgd()),
    "add_decayed_weights": lambda: optax.chain(optax.add_decayed_weights(0.1), sgd()),
    "add_noise": lambda: optax.add_noise(0.1, 0.5, 0),
    "apply_if_finite": lambda: optax.apply_if_finite(sgd(), 3),
    "chain": lambda: optax.chain(optax.clip(0.5), sgd()),
    "clip": lambda: optax.clip(0.05),
    "clip_by_block_rms": lambda: optax.clip_by_block_rms(0.1),
    "clip_by_global_norm": lambda: optax.clip_by_global_norm(0.1),
    "conditionally_mask": lambda: optax.conditionally_mask(sgd(), later),
    "conditionally_transform": lambda: optax.conditionally_transform(sgd(), later),
    "ema": lambda: optax.ema(0.9),
    "flatten": lambda: optax.flatten(sgd()),
    "freeze": lambda: optax.chain(sgd(), optax.freeze({"w": False, "b": True})),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.sgd)(
        learning_rate=optax.constant_schedule(0.1)
    ),
    "lookahead": lambda: optax.lookahead(sgd(), 2, 0.5),
    "masked": lambda: optax.masked(sgd(), everything),
    "measure_with_ema": lambda: optax.monitor(
        {"norm": optax.measure_with_ema(optax.tree.norm, 0.9)}
    ),
    "monitor": lambda: optax.chain(optax.monitor({"norm": optax.tree.norm}), sgd()),
    "multi_transform": lambda: optax.multi_transform({True: sgd()}, everything),
    "MultiSteps": lambda: optax.MultiSteps(sgd(), 2),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(0.5)), ("sgd", sgd())),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, 0.01, 0.55, 0),
    "partition": lambda: optax.partition({True: sgd()}, everything),
    "scale": lambda: optax.scale(-0.1),
    "scale_by_backtracking_linesearch": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(3)
    ),
    "scale_by_schedule": lambda: optax.scale_by_schedule(optax.linear_schedule(-0.1, 0.0, 5)),
    "scale_by_zoom_linesearch": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_zoom_linesearch(3)
    ),
    "selective_transform": lambda: optax.selective_transform(
        sgd(), freeze_mask={"w": False, "b": True}
    ),
    "snapshot": lambda: optax.chain(optax.snapshot("norm", optax.tree.norm), sgd()),
    "stateless": lambda: optax.stateless(lambda u, _: jax.tree.map(lambda g: -0.1 * g, u)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, _: -0.1 * g),
    "trace": lambda: optax.trace(0.9),
    "with_extra_args_support": lambda: optax.with_extra_args_support(sgd()),
    "differentially_private_aggregate": lambda: optax.contrib.differentially_private_aggregate(
        1.0, 0.1, key=0
    ),
    "dpsgd": lambda: optax.contrib.dpsgd(0.1, 1.0, 0.1, 0),
    "galore": lambda: optax.contrib.galore(0.1, rank=1),
    "mechanize": lambda: optax.contrib.mechanize(sgd()),
    "sam": lambda: optax.contrib.sam(sgd(), adversary(), opaque_mode=True),
    "scale_by_galore": lambda: optax.contrib.scale_by_galore(1),
    "scale_by_muon": lambda: optax.contrib.scale_by_muon(**muon_axes()),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(sgd()),
}
# Public functions without an annotation, or classes, that make no optimizer.
NO_OPTIMIZERS = {
    *("GradientTransformation", "GradientTransformationExtraArgs", "WrappedSchedule"),
    *("matrix_inverse_pth_root", "sigmoid_binary_cross_entropy", "schedule_free_eval_params"),
    *("update_infinity_moment", "update_moment", "update_moment_per_elem_norm"),
}


def find(name):
    return getattr(optax.contrib, name, None) or getattr(optax, name, None)


MATRIX = {
    **{name: functools.partial(lambda name: find(name)(0.1), name) for name in RATED},
    **{name: functools.partial(lambda name: find(name)(), name) for name in BARE},
    **OTHERS,
}


def public():
    """All that makes an optimizer by its annotation, and all that has no annotation."""
    found = set()
    for module in (optax, optax.contrib):
        for name in dir(module):
            thing = getattr(module, name) if not name.startswith("_") else None
            made = getattr(thing, "func", thing)
            if inspect.isclass(made) and hasattr(made, "update"):
                found.add(name)
            elif inspect.isfunction(made):
                returned = inspect.signature(made).return_annotation
                if returned is inspect.Signature.empty or "GradientTransformation" in str(returned):
                    found.add(name)
    return found


def test_every_optimizer_of_optax_is_in_the_matrix():
    """A new one fails here until it is listed."""
    unlisted = public() - MATRIX.keys() - NO_OPTIMIZERS
    assert not unlisted


# The contract.

# What breaks, and the message with which it does; the page gives the reasons.
FAILS = {
    "lookahead": ("stepped", "has no attribute 'fast'"),
    "monitor": ("stepped", "changed the structure of `opt_state`"),
    "measure_with_ema": ("stepped", "changed the structure of `opt_state`"),
    "differentially_private_aggregate": ("stepped", "to have a batch dimension"),
    "dpsgd": ("stepped", "to have a batch dimension"),
    "galore": ("frozen", "'NoneType' object has no attribute 'dtype'"),
    "scale_by_galore": ("frozen", "'NoneType' object has no attribute 'dtype'"),
}
# Parts of others that are here whole: with `-m slow`, for each is a program to compile.
PARTS = {name for name in MATRIX if name.startswith("scale_by_") and name not in FAILS}

START = {"w": np.array([[0.5, -1.0, 0.3], [0.2, 0.8, -0.4]], np.float32), "b": np.ones(7, "f")}


def loss_fn(model, example, key):
    x, y = example
    return 0.5 * jnp.sum((model["w"] @ x + jnp.mean(model["b"]) - y) ** 2)


def batch_of(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    return x.astype(np.float32), y.astype(np.float32)


# They refuse arguments that they do not know.
SEARCH = {"value", "grad", "value_fn"}
HANDED = {
    "sam": {"grad_fn"},
    "lbfgs": SEARCH,
    "scale_by_backtracking_linesearch": SEARCH,
    "scale_by_zoom_linesearch": SEARCH,
}


def optimizer_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Optax's, of what it will drop.
        return MATRIX[name]()


def by_hand(name, trained):
    """Two steps of the loop of optax's pages, on what is trained alone and on whole batches."""
    optimizer = optax.with_extra_args_support(optimizer_of(name))
    start = jax.tree.map(jnp.asarray, START)
    params = {path: start[path] if path in trained else None for path in START}
    state = optimizer.init(params)
    for x, y in map(batch_of, range(2)):

        def objective(params, *_, x=x, y=y):
            shift = jnp.mean(start["b"] if params["b"] is None else params["b"])
            residual = x @ params["w"].T + shift - y
            return 0.5 * jnp.mean(jnp.sum(residual**2, axis=1))

        value, grads = jax.value_and_grad(objective)(params)
        extra = {"value": value, "grad": grads, "grad_fn": jax.grad(objective)}
        extra |= {"value_fn": objective, "obj_fn": objective}
        extra = {key: extra[key] for key in HANDED.get(name, extra)}
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return {path: params[path] if path in trained else start[path] for path in START}


def run(name, folder, trained):
    """Two steps of two microbatches each, saved between them; the second one twice."""
    step = TrainStep(loss_fn, optimizer_of(name), trainable=trained, accumulate=2)
    state = step.init(START, key=jax.random.key(0))
    kept = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert "b" in trained or START["b"].shape not in kept
    state, _ = step(state, batch_of(0))
    treadle.save(folder / "state", state)
    state, _ = step(state, batch_of(1))
    step.check(state)
    others = jax.tree.map(np.zeros_like, START)
    resumed = treadle.load(folder / "state", step.init(others, key=jax.random.key(1)))
    resumed, _ = step(resumed, batch_of(1))
    assert_same(resumed, state)
    assert len(step.compilations) == 1
    return state.model


def hold(name, folder, trained):
    """Stepped, accumulated, saved and resumed; and the rest frozen."""
    model = run(name, folder, trained)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = by_hand(name, trained)
    for path in START:
        if path in trained:
            np.testing.assert_allclose(model[path], expected[path], rtol=1e-4, atol=1e-5)
            assert np.array_equal(model[path], START[path]) == (name == "set_to_zero")
        else:
            np.testing.assert_array_equal(model[path], START[path])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in PARTS else name
        for name in MATRIX
        if name not in FAILS
    ],
)
def test_contract(name, tmp_path):
    if find(name) is None:
        pytest.skip(f"this optax has no {name}")
    hold(name, tmp_path, ["w"])


@pytest.mark.parametrize("name", FAILS)
def test_what_breaks_breaks_as_the_page_says(name, tmp_path):
    if find(name) is None:
        pytest.skip(f"this optax has no {name}")
    broken, message = FAILS[name]
    if broken == "frozen":
        hold(name, tmp_path / "all", ["w", "b"])
    with pytest.raises(Exception, match=message):
        run(name, tmp_path, ["w", "b"] if broken == "stepped" else ["w"])


# The page.


def section():
    text = PAGE.read_text(encoding="utf-8")
    return text.split("## All of optax")[1].split("\n## ")[0]


def test_the_page_lists_all_that_holds():
    lists = section().split("Optimizers:")[1].split("What does not hold")[0]
    listed = re.findall(r"`(?:contrib\.)?(\w+)`", lists)
    assert sorted(listed) == sorted(MATRIX.keys() - FAILS.keys())


def test_the_page_lists_what_breaks_and_at_what():
    rows = re.findall(r"^\| (`.+?) \| (\w+) \| .{30,} \|$", section(), re.MULTILINE)
    told = {
        name: broken
        for names, broken in rows
        for name in re.findall(r"`(?:contrib\.)?(\w+)`", names)
    }
    assert told == {name: broken for name, (broken, _) in FAILS.items()}
