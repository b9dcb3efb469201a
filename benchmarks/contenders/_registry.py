"""Every contender there is: adding one means a file in this folder and an entry here."""

from .._configs import ENSEMBLE_SIZE, STEPS_PER_CALL
from ._base import Contender

_TREADLE = ("treadle",)
_FLAX = ("flax",)
_KLAX = ("klax",)
_LIGHTNING = ("torch", "lightning")
_NO_STATE = {"resnet": "its step hands on no state of the model"}

# Each is `step(state, batch)` with one option more than none of them.
_OPTIONS = {
    "plain": '`nonfinite="ignore"`, and nothing else',
    "raise": '`nonfinite="raise"`, the default',
    "skip": '`nonfinite="skip"`',
    "ema": "`ema=0.999`",
    "bf16": '`precision="bf16"`',
    "fp16": '`precision="fp16"`, its loss scaled',
    "bf16-params": "parameters in bfloat16, rounded stochastically",
    "accumulate-4": "`accumulate=4`",
    "undonated": "`donate=False`",
    "half": "`trainable` the later half of the arrays",
    "hyperparams": "`optax.inject_hyperparams(optax.adamw)`",
}

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "floor",
            "floor",
            "`jax.jit` on a flat list of donated buffers: the outputs of treadle's step, by the "
            "same maths (per-example `vmap`, a key per example), and no library around it",
            ours=True,
        ),
        Contender(
            "floor-bare",
            "floor",
            "the same without loss, accuracy, norm and checks: a plain batch in, weights out",
            function="build_bare",
            ours=True,
        ),
        Contender(
            "floor-scan",
            "floor_scan",
            "`lax.scan` over 50 steps of the floor (*resnet*: 10, unrolled), on batches that lie "
            "stacked in memory",
            multiple=STEPS_PER_CALL,
            ours=True,
        ),
        Contender(
            "floor-scan-stacking",
            "floor_scan",
            "the same, but it gets the batches one by one and stacks them on the way",
            function="build_stacking",
            multiple=STEPS_PER_CALL,
            ours=True,
        ),
        Contender(
            "treadle-step",
            "treadle_step",
            "the user's own loop over `step(state, batch)`",
            requires=_TREADLE,
            ours=True,
        ),
        Contender(
            "treadle-fit",
            "treadle_fit",
            "`fit` with its progress bar and JSONL logging every 10 steps",
            requires=_TREADLE,
            ours=True,
        ),
        Contender(
            "treadle-fit-50",
            "treadle_fit",
            "the same with `steps_per_call=50` (*resnet*: 10)",
            function="build_fused",
            requires=_TREADLE,
            multiple=STEPS_PER_CALL,
            ours=True,
        ),
        Contender(
            "treadle-scan",
            "treadle_step",
            "`step.scan` over 50 batches (*resnet*: 10) that lie stacked in memory",
            function="build_scan",
            requires=_TREADLE,
            multiple=STEPS_PER_CALL,
            ours=True,
        ),
        Contender("equinox", "equinox_loop", "hand-written, `eqx.filter_jit`"),
        Contender(
            "equinox-donated",
            "equinox_loop",
            'hand-written, `eqx.filter_jit(donate="all")`',
            function="build_donated",
        ),
        Contender("linen", "flax_linen", "Flax Linen's `TrainState` in `jax.jit`", requires=_FLAX),
        Contender(
            "linen-donated",
            "flax_linen",
            "the same, state donated",
            function="build_donated",
            requires=_FLAX,
        ),
        Contender("nnx", "flax_nnx", "Flax NNX under `nnx.jit`", requires=_FLAX),
        Contender(
            "nnx-cached",
            "flax_nnx",
            "the same through `nnx.cached_partial`",
            function="build_cached",
            requires=_FLAX,
        ),
        Contender(
            "nnx-split",
            "flax_nnx",
            "Flax NNX split once by hand, the arrays through a donated `jax.jit`",
            function="build_split",
            requires=_FLAX,
        ),
        Contender("haiku", "haiku_loop", "Haiku under `jax.jit`", requires=("haiku",)),
        Contender(
            "klax",
            "klax_fit",
            "`klax.fit` without its logger",
            requires=_KLAX,
            unsuited=_NO_STATE,
        ),
        Contender(
            "klax-logged",
            "klax_fit",
            "`klax.fit` logging every 10 steps, with its progress bar",
            function="build_logged",
            requires=(*_KLAX, "tqdm"),
            unsuited=_NO_STATE,
        ),
        Contender("keras", "keras_fit", "Keras 3 on JAX, `fit`, silent", requires=("keras",)),
        Contender(
            "keras-logged",
            "keras_fit",
            "the same with its progress bar",
            function="build_logged",
            requires=("keras",),
        ),
        Contender(
            "keras-16",
            "keras_fit",
            "Keras 3 on JAX, silent, `steps_per_execution=16`",
            function="build_multi",
            requires=("keras",),
            multiple=16,
        ),
        Contender(
            "lightning",
            "lightning_fit",
            "Lightning's `Trainer.fit`, nothing logged, AdamW fused",
            requires=_LIGHTNING,
        ),
        Contender(
            "lightning-logged",
            "lightning_fit",
            "the same with its progress bar and a CSV log every 10 steps",
            function="build_logged",
            requires=_LIGHTNING,
        ),
        Contender("pytorch", "pytorch_loop", "PyTorch, eager", requires=("torch",)),
        Contender(
            "pytorch-fused",
            "pytorch_loop",
            "PyTorch, eager, AdamW fused",
            function="build_fused",
            requires=("torch",),
        ),
        Contender(
            "floor-ema",
            "floor_ema",
            "the floor with an average of its weights, by hand",
            ours=True,
        ),
        *(
            Contender(
                f"step-{option}",
                "treadle_options",
                f"`step(state, batch)`: {about}",
                arguments=(option,),
                requires=_TREADLE,
                ours=True,
            )
            for option, about in _OPTIONS.items()
        ),
        Contender(
            "floor-members",
            "floor_members",
            "32 models, one after another through one compiled floor",
            arguments=(ENSEMBLE_SIZE,),
            ours=True,
        ),
        Contender(
            "floor-vmap",
            "floor_members",
            "`jax.vmap` of the floor over 32 models, by hand",
            function="build_mapped",
            arguments=(ENSEMBLE_SIZE,),
            ours=True,
        ),
        Contender(
            "equinox-members",
            "equinox_loop",
            "32 models, one after another through one hand-written `eqx.filter_jit`",
            function="build_members",
            arguments=(ENSEMBLE_SIZE,),
        ),
        Contender(
            "treadle-ensemble",
            "treadle_ensemble",
            "`treadle.ensemble(step, 32)`: one program",
            arguments=(ENSEMBLE_SIZE,),
            requires=_TREADLE,
            ours=True,
        ),
        Contender(
            "treadle-ensemble-scan",
            "treadle_ensemble",
            "its `scan` over 50 batches that lie stacked in memory",
            function="build_scan",
            arguments=(ENSEMBLE_SIZE,),
            requires=_TREADLE,
            multiple=STEPS_PER_CALL,
            ours=True,
        ),
    )
}
