# The training side: a node of Ray, and the agent. All nodes of a cluster run this one image.
# Build it at the root of the repository: docker build -f deploy/worker.Dockerfile -t strata-worker .
#
# torch's wheel brings its own CUDA libraries; the base only tells the container runtime to bring
# the driver in, and to refuse one that is too old for them. Without GPUs: --build-arg BASE=ubuntu:24.04, and PIP_EXTRA_INDEX_URL with the index
# of torch's CPU builds, which are several GB smaller.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04
FROM ${BASE} AS python
# The version is the distribution's: the base image's tag pins it. The compiler and the headers
# are for `training.compile`: torch compiles on the node where it trains.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ python3 python3-dev \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
# Drivers of storages beyond plain folders, as pip takes them: s3fs, gcsfs, ...
ARG STORAGE_DRIVERS="s3fs==2026.9.0"
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/strata
ENV PATH=/opt/strata/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY workers workers
COPY migrations migrations
RUN pip install --constraint constraints.txt ".[worker]" ${STORAGE_DRIVERS}

FROM python
# A folder for the storage's mount: an empty volume of Docker takes its owner from the image.
# KubeRay starts Ray from a login shell, which forgets PATH: hence the profile. A link to the
# environment's python from elsewhere would not find the environment.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp strata \
    && install --directory --owner 10001 --group 10001 /var/lib/strata \
    && echo "export PATH=/opt/strata/bin:\$PATH" > /etc/profile.d/strata.sh
COPY --from=build /opt/strata /opt/strata
ENV PATH=/opt/strata/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
# A node of Ray by default; the agent is the same image with the command `strata agent`.
HEALTHCHECK NONE
CMD ["ray", "start", "--help"]
