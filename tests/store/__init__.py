"""Tests of the promises every store keeps."""
