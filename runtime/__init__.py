"""Track objects in video with an exported bundle; needs numpy, OpenCV and ONNX Runtime only."""

BACKENDS = {
    "auto": "onnx:OnnxBackend",
    "onnx": "onnx:OnnxBackend",
    "onnx-cuda": "onnx_cuda:OnnxCudaBackend",
    "tensorrt": "tensorrt:TensorRTBackend",
    "tensorrt-rtx": "tensorrt:TensorRTBackend.for_rtx",
}
"""Module and class of each backend's name; here, where nothing is imported, for the command line's help."""
