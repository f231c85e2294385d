"""Which parameter dimensions of a network belong together."""
