"""Whoever sends us anything at all."""
