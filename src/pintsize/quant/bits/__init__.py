"""Bits of each layer under a budget."""
