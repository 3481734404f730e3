"""Tests that kill servers for real."""
