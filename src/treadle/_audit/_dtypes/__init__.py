"""Formats: doubles, and what is widened on the way."""
