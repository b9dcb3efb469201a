"""Checkpoints that are damaged, or forged by somebody who knows the format."""
