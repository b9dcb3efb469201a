"""Benchmarks of treadle against the loops a user would write or pick instead."""
