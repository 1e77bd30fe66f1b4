"""Checks and measures any operator, knowing none by name."""
