"""Prune, retrain, and again."""
