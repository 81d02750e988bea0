"""What runs inside of the container, as root, beside a systemd that is process 1.

The files are named check_*.py, not test_*.py: on any other machine they would change it.
"""
