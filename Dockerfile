# The page and the API on the bundled model.
#
#   docker build -t pneumocam .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:7860:7860 pneumocam
#
# --build-arg TORCH=cpu|cu128|pypi: wheels for a CPU (default), for a version of CUDA, or PyPI's (CUDA on Linux).
FROM python:3.12-slim AS build
ARG TORCH=cpu
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /src
COPY requirements.txt .
# The pins without PneumoCAM first, so that a change of its code does not install PyTorch again. As constraints, because
# they list CUDA's packages, which the wheels for a CPU do not need.
COPY pyproject.toml setup.py README.md LICENSE ./
RUN pip install --no-cache-dir uv==0.13.9 \
 && uv venv /opt/pneumocam \
 && if [ "$TORCH" != pypi ]; then export UV_TORCH_BACKEND="$TORCH"; fi \
 && uv pip install --python /opt/pneumocam/bin/python -c requirements.txt -r pyproject.toml
COPY pneumocam pneumocam
COPY model model
COPY web web
COPY examples examples
RUN uv pip install --python /opt/pneumocam/bin/python --no-deps .

FROM python:3.12-slim
RUN useradd --uid 1000 --create-home app
COPY --from=build /opt/pneumocam /opt/pneumocam
# Everything that is written goes to /tmp: uploads, and a model of the Hub if PNEUMOCAM_MODEL names one.
ENV PATH=/opt/pneumocam/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /tmp
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
CMD ["pneumocam", "serve", "--host", "0.0.0.0", "--port", "7860"]
