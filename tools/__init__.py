"""What builds, installs and documents the project; nothing of it is installed."""
