"""Long runs, to see that nothing grows: see daemon.py."""
