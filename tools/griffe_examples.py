"""An extension for the API pages: an `Example:` of a docstring is shown as code.

Griffe reads `>>>` lines only under `Examples:`; under `Example:` they come out as quotations.
"""

import re

import griffe


class ExampleSections(griffe.Extension):
    """Takes `Example:` for `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrites the heading in the docstring of whatever griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
