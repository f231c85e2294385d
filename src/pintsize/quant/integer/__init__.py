"""The integer reference."""
