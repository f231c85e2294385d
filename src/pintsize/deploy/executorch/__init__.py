"""ExecuTorch's `.pte`."""
