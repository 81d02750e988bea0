"""uffdtrackd: which pages of a running process were written since the last time you asked."""
