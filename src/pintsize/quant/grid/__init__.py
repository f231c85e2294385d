"""The grid: quantizers, their scales and their gradients."""
