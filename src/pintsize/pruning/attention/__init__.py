"""Channel attention: which channels matter is learned, the others are cut out."""
