"""Tests of how the index learns."""
