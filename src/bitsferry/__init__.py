"""Bitsferry speaks the BITS Upload Protocol: a server for Windows clients, a client for BITS servers."""

__version__ = "0.1.0"
