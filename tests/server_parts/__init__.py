"""Tests of the server's rooms, one by one."""
