"""Whole channels, physically removed."""
