"""Single weights, masked."""
