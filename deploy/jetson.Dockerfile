# Jetson Orin with JetPack 6.1 or 6.2. Build on the Jetson from the top of the repository:
#     docker build -f deploy/jetson.Dockerfile -t sam2edge .
#     docker run --rm --runtime nvidia --device /dev/video0 -v "$PWD/out:/data" \
#         --group-add "$(getent group video | cut -d: -f3)" --group-add "$(getent group render | cut -d: -f3)" \
#         sam2edge track nano 0 …
# A CSI camera also needs -v /tmp/argus_socket:/tmp/argus_socket. Linted, never built: docs/how-to/deploy.md says what was run.

# It has CUDA 12.6, cuDNN and TensorRT 10.3 with its module for Python 3.10. The tag must match the board's release.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
        gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
    && rm -rf /var/lib/apt/lists/*
# With the system's packages, among which is TensorRT's module.
RUN python3 -m venv --system-site-packages /opt/sam2edge
ENV PATH=/opt/sam2edge/bin:/usr/local/cuda/bin:$PATH
# PyPI has no onnxruntime-gpu for Jetsons. If this index has none either, use onnxruntime==1.23.2, for the CPU only.
RUN pip install --no-cache-dir numpy==1.26.4 onnx==1.19.1 opencv-python-headless==4.11.0.86 pycuda==2025.1.2 \
        flatbuffers==25.12.19 packaging==26.3 \
    && pip install --no-cache-dir --no-deps --index-url https://pypi.jetson-ai-lab.io/jp6/cu126 onnxruntime-gpu==1.23.0
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY export export
COPY runtime runtime
COPY engines engines
COPY calibration calibration
RUN pip install --no-cache-dir --no-deps . \
    && useradd --create-home --uid 2000 --groups video sam2edge
USER 2000
WORKDIR /data
ENTRYPOINT ["sam2edge"]
CMD ["doctor"]
