# Any image with Python 3.11 or later and glibc will do; a compiler is not needed.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements-build.lock requirements-run.lock ./
RUN pip install --require-hashes --only-binary :all: --requirement requirements-build.lock \
 && python -m venv --without-pip /opt/pgherald \
 && pip --python /opt/pgherald/bin/python install --require-hashes --only-binary :all: --requirement requirements-run.lock
COPY pyproject.toml README.md LICENSE ./
COPY listener listener
COPY sql sql
COPY templates templates
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/pgherald/bin/python install --no-deps --no-index dist/*.whl

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pgherald
COPY --from=build /opt/pgherald /opt/pgherald
ENV PATH=/opt/pgherald/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# pgherald.toml is looked for here.
WORKDIR /etc/pgherald
USER 10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgherald"]
CMD ["run"]
