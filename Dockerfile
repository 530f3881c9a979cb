# Any image based on Debian with Python 3.11 or later is suitable. The build needs no compiler.
ARG PYTHON_IMAGE=python:3.14-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# The wheels of uvloop and aiohttp carry 20 MB of debug symbols.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils >/dev/null
RUN python3 -m venv pip && python3 -m venv --without-pip /opt/pgherald
COPY requirements/build.lock requirements/run.lock requirements/
# Pass a package mirror and its certificates, if you use one, as the secrets `pip` (a pip.conf) and `ca` (PEM).
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    pip/bin/pip install --require-hashes --only-binary :all: --requirement requirements/build.lock \
 && pip/bin/pip --python /opt/pgherald/bin/python install --no-compile --require-hashes --only-binary :all: \
    --requirement requirements/run.lock \
 && find /opt/pgherald -name '*.so*' -type f -exec strip --strip-unneeded {} +
COPY pyproject.toml README.md LICENSE ./
COPY listener listener
COPY sql sql
COPY templates templates
RUN pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip/bin/pip --python /opt/pgherald/bin/python install --no-compile --no-deps --no-index dist/*.whl

# A container that runs one daemon needs no package installer and no character sets of C programs.
FROM ${PYTHON_IMAGE} AS base
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pgherald \
 && rm -rf /usr/bin/apt* /usr/bin/dpkg* /usr/lib/apt /usr/lib/dpkg /usr/lib/*/libapt-* /var/lib/apt /var/cache/* \
    /usr/bin/perl* /usr/lib/*/perl-base /usr/share/perl* /usr/lib/*/gconv /usr/share/python-wheels \
    /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip*

# Not FROM base: a file that one layer removes still adds to the size of the layers below it.
FROM scratch
COPY --from=base / /
COPY --from=build /opt/pgherald /opt/pgherald
ENV PATH=/opt/pgherald/bin:$PATH LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The daemon looks for pgherald.toml in its working directory.
WORKDIR /etc/pgherald
USER 10001
EXPOSE 9599
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PGHERALD_HTTP_LISTEN', '127.0.0.1:9599').rpartition(':')[2] + '/livez', timeout=4)"]
ENTRYPOINT ["pgherald"]
CMD ["run"]
