"""Data sets: rendered (mini), real (folders), and their splits."""
