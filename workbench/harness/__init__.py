"""What checks and measures any operator: it knows none by name."""
