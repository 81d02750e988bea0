"""The daemon: sessions for many clients over a socket, kept by systemd over its restarts."""
