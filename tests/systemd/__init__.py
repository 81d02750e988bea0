"""Under a real systemd: a container of this machine's own root, booted by systemd-nspawn."""
