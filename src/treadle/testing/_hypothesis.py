"""Says what to install where hypothesis is missing; imported before what needs it."""

from .._errors import MissingExtraError

try:
    import hypothesis as hypothesis
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"`treadle.testing` needs {error.name}, which is not installed: "
        f'`pip install "treadle[testing]"`.'
    ) from error
