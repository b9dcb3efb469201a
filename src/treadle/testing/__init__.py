"""Hypothesis strategies and laws, for your own pytree transformations."""

from . import _hypothesis as _hypothesis
