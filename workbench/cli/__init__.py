"""Command lines: the test scripts, the pages of docs/, the study of rounding errors."""
