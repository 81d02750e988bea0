"""Tests that attach to real processes; each is marked `live`."""
