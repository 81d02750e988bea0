"""Tests: unit/ needs nothing but Python, live/ attaches to real processes of this machine."""
