"""An extension for the API pages: what griffe reads in the source, as a reader wants to see it."""

import dataclasses
import re

import griffe


def _without_door(annotation: str | griffe.Expr | None) -> str | griffe.Expr | None:
    """`T` for `Door[T]`, which only keeps run-time type checkers away."""
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) == "Door":
        return annotation.slice
    if isinstance(annotation, griffe.ExprBinOp):
        left, right = _without_door(annotation.left), _without_door(annotation.right)
        return dataclasses.replace(annotation, left=left, right=right)
    return annotation


class Pages(griffe.Extension):
    """Examples as code, and annotations without what only our tests need."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrites what griffe does not read as it is meant."""
        if obj.docstring is None:
            return
        text = obj.docstring.value
        # `>>>` is shown as code under this heading only.
        text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
        # A list of errors that points to another's is a sentence.
        text = re.sub(r"^( *)Raises:\n +(As a call)", r"\1**Raises:** \2", text, flags=re.MULTILINE)
        obj.docstring.value = text

    def on_function(self, *, func: griffe.Function, **kwargs: object) -> None:
        """Shows arguments as users write them."""
        for parameter in func.parameters:
            parameter.annotation = _without_door(parameter.annotation)
