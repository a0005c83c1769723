"""A competition's files as tables, pixels, groups and folds."""
