"""Track objects in video with an exported bundle; needs numpy, OpenCV and ONNX Runtime only."""

BACKENDS = {
    "auto": "onnx_backend:OnnxBackend",
    "onnx": "onnx_backend:OnnxBackend",
    "onnx-cuda": "onnx_cuda_backend:OnnxCudaBackend",
    "tensorrt": "tensorrt_backend:TensorRTBackend",
}
"""Module and class of each backend's name; here, where nothing is imported, for the command line's help."""
