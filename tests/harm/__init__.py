"""Whoever means harm, in numbers."""
