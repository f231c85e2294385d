"""Quantizers in a network: where they go, what is folded, what is recorded."""
