"""Post-training quantization: ranges from a few hundred images, and what refines them."""
