"""Where iterations go to stay: the iteration log (SQLite) and the export formats."""
