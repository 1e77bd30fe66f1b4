"""Command lines: of the test scripts, of the pages of docs/, of a study of rounding errors."""
