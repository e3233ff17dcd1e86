# masktas on a CPU, with all extras. The current folder is what it sees:
#   docker build --tag masktas .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" masktas \
#       run photos/ --out runs/first --space tiny --max-params 6M
FROM python:3.12-slim AS build
WORKDIR /source
COPY requirements-uv.lock ./
RUN python -m pip install --no-cache-dir --require-hashes --requirement requirements-uv.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md CITATION.cff SECURITY.md requirements.lock ./
COPY src ./src
# Versions are those of the lock file; torch comes without CUDA.
RUN uv build --quiet --wheel --out-dir /dist \
    && uv venv --quiet /opt/masktas \
    && uv pip install --quiet --no-cache --python /opt/masktas/bin/python --torch-backend cpu \
        --constraint requirements.lock "masktas[all] @ $(ls /dist/*.whl)"

FROM python:3.12-slim
# Crops and the optimiser of the supernet are compiled when they are first used, by any gcc.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/masktas /opt/masktas
ENV PATH="/opt/masktas/bin:$PATH" HOME=/tmp
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["masktas"]
