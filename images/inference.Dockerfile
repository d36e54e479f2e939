# The model services (critique, refinement, judge) with their engine, one pool of them per pod.
# VARIANT=cpu insists on the small CPU build of torch (an index or a folder of wheels has to have it); VARIANT=cuda
# takes the build with CUDA inside; VARIANT=vllm that one with vLLM beside our services, in the versions that vLLM wants.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

# Wheels that no index has: `--build-context wheels=FOLDER` puts a folder in this stage's place.
FROM scratch AS wheels

FROM ${BASE_IMAGE} AS builder
ARG PIP_INDEX_URL
ARG VARIANT=cpu
WORKDIR /build
COPY pyproject.toml constraints.txt images/install.py images/vllm.txt ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=secret,id=pip,target=/run/secrets/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    python3 install.py dependencies project inference --torch "${VARIANT}"
COPY . .
RUN python3 install.py project

FROM ${BASE_IMAGE}
ARG VERSION=0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="omnialign inference" \
      org.opencontainers.image.description="The critique, refinement and judge services of omnialign with their engine" \
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
CMD ["services.pool"]
