# NVIDIA Triton with what the models of `sam2edge triton` need. Build from the top of the repository:
#     docker build -f deploy/triton.Dockerfile -t sam2edge-triton .
#     docker run --rm --gpus all --shm-size=1g -p 8000:8000 -p 8001:8001 -v "$PWD/out/repository:/models:ro" sam2edge-triton
# Linted, never built: docs/how-to/serve.md says what was run.

# pycuda is compiled here, since Triton's image has neither a compiler nor CUDA's headers. Both are Ubuntu 24.04 with
# Python 3.12 and CUDA 12.6.
FROM nvidia/cuda:12.6.3-cudnn-devel-ubuntu24.04 AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
# onnxruntime-gpu replaces onnxruntime, with which it shares a folder; sam2edge is therefore installed with --no-deps.
RUN pip wheel --no-cache-dir --wheel-dir /wheels numpy==2.2.6 onnx==1.19.1 onnxruntime-gpu==1.23.2 \
    opencv-python-headless==4.12.0.88 pycuda==2025.1.2 tensorrt-cu12==10.13.3.9
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY export export
COPY runtime runtime
COPY engines engines
COPY calibration calibration
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# The Python backend of older ones cannot read the arrays of numpy 2.
FROM nvcr.io/nvidia/tritonserver:24.12-py3
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --break-system-packages /wheels/*.whl
# A file of a few kilobytes may hold gigabytes of pixels; larger images than these are refused.
ENV OPENCV_IO_MAX_IMAGE_PIXELS=67108864
USER 1000
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models", "--disable-auto-complete-config"]
