"""Without hypothesis the library is what it is, and its testing part says what to install."""

import subprocess
import sys

CODE = """
import sys
sys.modules["hypothesis"] = None  # As if it was not installed.
import treadle
try:
    import treadle.testing
except treadle.MissingExtraError as error:
    print(error)
"""


def test_what_to_install_without_hypothesis():
    answer = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert answer.stdout.strip() == (
        "`treadle.testing` needs hypothesis, which is not installed: "
        '`pip install "treadle[testing]"`.'
    ), answer.stderr
