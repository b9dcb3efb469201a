"""Loops that Python unrolled."""
