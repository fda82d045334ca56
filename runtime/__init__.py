"""Track objects in video with an exported bundle; needs numpy, OpenCV and ONNX Runtime only."""
