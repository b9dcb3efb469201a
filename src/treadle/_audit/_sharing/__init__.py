"""Draws that several examples share."""
