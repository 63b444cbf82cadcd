# The control plane and the command line: server, migrations, tokens. Neither Ray nor torch.
# Build it at the root of the repository: docker build -f deploy/service.Dockerfile -t strata .
FROM python:3.11-slim-bookworm AS build
# Drivers of storages beyond plain folders, as pip takes them: s3fs, gcsfs, ...
ARG STORAGE_DRIVERS="s3fs==2026.9.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/strata
ENV PATH=/opt/strata/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY workers workers
COPY migrations migrations
RUN pip install --constraint constraints.txt . ${STORAGE_DRIVERS}

FROM python:3.11-slim-bookworm
# A folder for the storage's mount: an empty volume of Docker takes its owner from the image.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp strata \
    && install --directory --owner 10001 --group 10001 /var/lib/strata
COPY --from=build /opt/strata /opt/strata
# HOME is a folder that is there and writable even where the root file system is read-only.
# PostgreSQL's driver brings an OpenSSL along that looks for certificates where there are none.
ENV PATH=/opt/strata/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    STRATA_HOST=0.0.0.0 STRATA_PORT=8080
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["strata"]
CMD ["server"]
