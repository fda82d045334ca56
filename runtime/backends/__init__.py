"""How graphs run: ONNX Runtime on the CPU or on CUDA, TensorRT engines, or a backend of the caller's own."""
