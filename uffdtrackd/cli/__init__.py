"""`uffdtrack`, the command line: one file a group of verbs, `render` for what people see."""
