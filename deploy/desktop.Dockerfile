# Desktop and server GPUs. Build from the top of the repository, run with the NVIDIA Container Toolkit:
#     docker build -f deploy/desktop.Dockerfile -t sam2edge .
#     docker run --rm --gpus all -v "$PWD/out:/data" sam2edge doctor
# Linted, never built: docs/how-to/deploy.md says what was run.

# These versions of onnxruntime-gpu and tensorrt-cu12 need CUDA 12 and cuDNN 9; change them together.
FROM nvidia/cuda:12.6.3-cudnn-devel-ubuntu24.04 AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/sam2edge
ENV PATH=/opt/sam2edge/bin:$PATH
# onnxruntime-gpu replaces onnxruntime, with which it shares a folder; sam2edge is therefore installed with --no-deps.
RUN pip install --no-cache-dir numpy==2.2.6 onnx==1.19.1 onnxruntime-gpu==1.23.2 opencv-python-headless==4.12.0.88 \
    pycuda==2025.1.2 tensorrt-cu12==10.13.3.9
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY export export
COPY runtime runtime
COPY engines engines
COPY calibration calibration
RUN pip install --no-cache-dir --no-deps .

FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 2000 --groups video sam2edge
COPY --from=build /opt/sam2edge /opt/sam2edge
ENV PATH=/opt/sam2edge/bin:$PATH
USER 2000
WORKDIR /data
ENTRYPOINT ["sam2edge"]
CMD ["doctor"]
