# llm2vec-gen serve in a container; docs/serving.md has the commands. Targets: cpu, cuda.
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HOME=/tmp/huggingface
WORKDIR /src
# PyTorch's index of CPU wheels makes the image of target cpu smaller by gigabytes; empty: the default index.
ARG TORCH_INDEX=
COPY constraints.txt ./
RUN pip install torch -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY pyproject.toml README.md LICENSE ./
COPY llm2vec_gen llm2vec_gen
COPY hydra_plugins hydra_plugins
COPY conf conf
RUN pip install '.[serve,index]' -c constraints.txt
RUN useradd --uid 1000 --create-home server
WORKDIR /home/server
USER server
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# The model is mounted, never part of the image.
ENTRYPOINT ["llm2vec-gen", "serve", "/model", "--host", "0.0.0.0", "--port", "8000", "--name", "model"]

FROM base AS cpu
CMD ["--device", "cpu"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["--device", "cuda"]
