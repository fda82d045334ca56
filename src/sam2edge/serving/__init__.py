"""Serving on NVIDIA Triton: the model repository that `sam2edge triton` writes, and what runs inside the server."""
