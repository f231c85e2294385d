"""The `.onnx` file, and ONNX Runtime."""
