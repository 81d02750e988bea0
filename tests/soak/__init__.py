"""Long runs: memory.py, to miss nothing; daemon.py, to see that nothing grows."""
