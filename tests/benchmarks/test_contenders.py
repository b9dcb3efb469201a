"""All contenders compute the same thing, those of ours to the last digits."""

import dataclasses

import jax
import pytest
from benchmarks._configs import CONFIGS
from benchmarks.contenders import CONTENDERS, Contender

SMALL = {
    "mlp": dataclasses.replace(CONFIGS["leafy"], batch_size=4, input_size=6, width=5, depth=3),
    "dropout": dataclasses.replace(
        CONFIGS["ref"], batch_size=4, input_size=6, width=5, depth=3, dropout=0.5
    ),
    "transformer": dataclasses.replace(
        CONFIGS["tf"], batch_size=2, input_size=8, width=8, depth=1, num_heads=2, num_tokens=3
    ),
}
# One for each library's models: the rest of a library's contenders train the same ones.
FAMILIES = ("treadle-step", "linen", "nnx-split", "haiku", "keras")
OURS = [name for name, entry in CONTENDERS.items() if entry.ours and name != "floor-bare"]
# PyTorch and Lightning take seconds to import: where they are installed, the race shows it.
PEERS = [name for name, c in CONTENDERS.items() if not c.ours and "torch" not in c.requires]


@pytest.fixture(autouse=True)
def _loose_jax():
    """Peers, and the floors as one would write them, are not made for strict JAX."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def losses(name, config, steps=50):
    contender = CONTENDERS[name]
    if contender.missing() is not None:
        pytest.skip(f"{contender.missing()} is not installed")
    run = contender.build(config)
    before = run.loss()
    run.run(steps)
    return before, run.loss()


@pytest.fixture(scope="module")
def reference():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {kind: losses("floor", config) for kind, config in SMALL.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "mlp") for name in PEERS), *((name, "transformer") for name in FAMILIES)],
)
@pytest.mark.filterwarnings("ignore")
def test_same_losses(name, kind, reference):
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


def test_other_draws_give_another_loss(reference):
    after = losses("floor-bare", SMALL["dropout"])[1]
    assert after != pytest.approx(reference["dropout"][1], rel=1e-4)


def test_missing_names_the_module():
    contender = Contender("x", "floor", "", requires=("json", "no_such_module"))
    assert contender.missing() == "no_such_module"
    assert dataclasses.replace(contender, requires=("json",)).missing() is None
