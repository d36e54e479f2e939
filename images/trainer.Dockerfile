# What a training job runs: torch, DeepSpeed, TRL and the folder training/.
# VARIANT=cpu insists on the small CPU build of torch (an index or a folder of wheels has to have it); VARIANT=cuda
# takes the build with CUDA inside. DeepSpeed's operations are compiled here, so that no pod compiles at start.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

# Wheels that no index has: `--build-context wheels=FOLDER` puts a folder in this stage's place.
FROM scratch AS wheels

FROM ${BASE_IMAGE} AS builder
ARG PIP_INDEX_URL
ARG VARIANT=cpu
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml constraints.txt images/install.py ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=secret,id=pip,target=/run/secrets/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    python3 install.py dependencies project training --torch "${VARIANT}" --without deepspeed \
 && python3 install.py deepspeed SHM_COMM
COPY . .
RUN python3 install.py project

FROM ${BASE_IMAGE}
ARG VERSION=0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="omnialign trainer" \
      org.opencontainers.image.description="The training jobs of omnialign" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
RUN groupadd --gid 10001 omnialign \
 && useradd --no-log-init --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin omnialign
COPY --from=builder /opt/omnialign /opt/omnialign
# Everything that a library wants to write goes below /tmp, the one folder that has to be mounted writable.
ENV PATH=/opt/omnialign/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    HF_HUB_OFFLINE=1 \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["training.pod"]
