"""How XLA compiles the tests' programs: quickly, or as it does for users."""

import os
import subprocess
import sys

OPTIMISED = os.environ.get("TREADLE_TESTS") == "optimised"

# Tests compile far more than they compute, so XLA's quickest compilation. `TREADLE_TESTS=optimised`
# compiles as users do; `.ci/run` runs what is marked so both ways.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def quick_flags() -> str:
    """The flags, if this version of XLA knows them: it ends the process over one that it does not.

    The workers of a session find the answer in the environment.
    """
    if OPTIMISED:
        return ""
    if "TREADLE_TESTS_QUICK" not in os.environ:
        code = "import jax; jax.devices()"
        tried = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            check=False,
        )
        os.environ["TREADLE_TESTS_QUICK"] = QUICK if tried.returncode == 0 else ""
    return os.environ["TREADLE_TESTS_QUICK"]
