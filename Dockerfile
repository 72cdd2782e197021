# The command sst-merge in an image: for processors, or for CUDA with the libraries that torch's own packages bring.
#   docker build -t sst-merge .
#   docker build -t sst-merge:cuda --build-arg VARIANT=cuda .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" -v "$HOME/.cache/huggingface:/cache" sst-merge merge merge.yaml
# With a GPU add `--gpus all` (NVIDIA's container toolkit).
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE requirements.txt constraints.txt ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG VARIANT=cpu
ENV HF_HOME=/cache MPLCONFIGDIR=/tmp/matplotlib PIP_NO_CACHE_DIR=1
COPY requirements.txt constraints.txt /tmp/pins/
COPY --from=build /wheels /tmp/wheels
# The pinned versions that the tests ran with. PyPI's torch for Linux is the one with CUDA.
RUN case "${VARIANT}" in \
      cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
      cuda) ;; \
      *) echo "VARIANT is cpu or cuda, found ${VARIANT}" >&2; exit 1 ;; \
    esac \
    && wheel="$(echo /tmp/wheels/*.whl)" \
    && pip install -c /tmp/pins/requirements.txt "${wheel}[eval,gguf]" \
    && rm -rf /tmp/wheels /tmp/pins \
    && useradd --create-home --uid 1000 merger \
    && mkdir -p /work /cache \
    && chown merger /work /cache
USER 1000
WORKDIR /work
ENTRYPOINT ["sst-merge"]
CMD ["--help"]
