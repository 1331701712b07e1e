# TensorFlow on NVIDIA GPUs; with --build-arg JAX_CUDA=1 JAX on them as well, otherwise on the CPU; with RAY=1 Ray.
#
#   make docker
#   docker run --gpus all -it -v "$PWD/runs:/home/bpfree/app/runs" bpfree
#   docker run --gpus all -it -v "$PWD/runs:/home/bpfree/app/runs" bpfree ./train.bash runs/mine --dataset=digits
FROM python:3.12.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

# A mounted runs/ must be writable to this user: pass --build-arg UID=$(id -u) on a shared machine.
ARG UID=1000
RUN useradd --create-home --uid "$UID" bpfree
USER bpfree
WORKDIR /home/bpfree/app

# The environment first: editing the source then rebuilds nothing but the last layer.
COPY --chown=bpfree pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY --chown=bpfree bpfree/__init__.py bpfree/__init__.py
ARG JAX_CUDA=0
ARG RAY=0
ENV PIP_NO_CACHE_DIR=1
RUN extras=gpu,jax,dev \
    && if [ "$JAX_CUDA" = 1 ]; then extras=gpu,jax-gpu,dev; fi \
    && if [ "$RAY" = 1 ]; then extras=$extras,ray; fi \
    && make install EXTRAS="$extras"

COPY --chown=bpfree . .
RUN mkdir -p runs && touch .venv/.installed
ENV TF_FORCE_GPU_ALLOW_GROWTH=true XLA_PYTHON_CLIENT_PREALLOCATE=false
CMD ["make", "demo"]
