"""Searching for networks: the cheapest one within a drop, or the most accurate one within a cost."""
