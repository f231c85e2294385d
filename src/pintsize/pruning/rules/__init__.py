"""Rule files: which parameters are pruned, how far at each stage, by which criterion."""
