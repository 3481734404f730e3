"""Sends files to a BITS server."""
