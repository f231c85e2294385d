"""What each part of a network costs when it alone is pruned."""
