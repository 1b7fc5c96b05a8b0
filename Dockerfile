# FleetOps's images: `fleetops` for every process of ours, `endpoint` with what the AWS-compatible endpoint needs besides,
# `backup` with PostgreSQL's client. docker-compose.yml builds and runs them.

FROM node:24-trixie-slim AS front-end
WORKDIR /build/static
COPY static/package.json static/package-lock.json static/.npmrc ./
RUN npm ci
COPY static/ ./
RUN npm run build

# Wheels alone, each by its hash: nothing is compiled, and no compiler is there.
FROM python:3.12-slim-trixie AS packages
RUN python -m venv --without-pip /opt/venv
COPY requirements/production.txt /tmp/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/production.txt

FROM packages AS endpoint-packages
COPY requirements/embedded.txt /tmp/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/embedded.txt

# The static files are collected here, by their content's hash: what runs writes none. The keys that an embedded start
# makes for itself stay in this stage.
FROM packages AS product
COPY . /app
COPY --from=front-end /build/static/dist /app/static/dist
WORKDIR /app
RUN FLEETOPS_HOME=/tmp/home FLEETOPS_STATIC_ROOT=/srv/static /opt/venv/bin/python manage.py collectstatic --no-input \
    && rm -rf static \
    && /opt/venv/bin/python -m compileall -q .

FROM python:3.12-slim-trixie AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/fleetops --shell /usr/sbin/nologin fleetops \
    && install -d -o fleetops -g fleetops -m 0700 /var/lib/fleetops /var/lib/fleetops/spool \
        /var/lib/fleetops/recordings /var/lib/fleetops/endpoint /backups
COPY --from=packages /opt/venv /opt/venv
COPY --from=product /srv/static /srv/static
COPY --from=product /app /app
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DJANGO_SETTINGS_MODULE=fleetops.settings \
    FLEETOPS_PROFILE=production \
    FLEETOPS_HOME=/var/lib/fleetops \
    FLEETOPS_STATIC_ROOT=/srv/static
WORKDIR /app
USER 10001:10001

FROM runtime AS endpoint
COPY --from=endpoint-packages /opt/venv /opt/venv

# pg_dump of the same version as the compose file's server.
FROM runtime AS backup
USER 0:0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001

FROM runtime AS fleetops
