"""Data sets that are drawn by code, so that everything runs anywhere."""
