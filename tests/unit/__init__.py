"""Tests that attach to nothing."""
