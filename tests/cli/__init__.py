"""Promises of the command line to the person who types it."""
