# crawlfarm: `make run` crawls a small sample site; `make help` lists the rest.
#
#   make run                                     the sample site
#   make run URL=https://docs.example/ DEPTH=3   another one
#
# Sets up .venv by itself. Writes nothing outside .venv/ and .run/.

.DEFAULT_GOAL := help
.PHONY: help run install servers test test-all lint bench bench-levels bench-docs bench-frontier bench-latency

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --quiet --no-compile --disable-pip-version-check --no-input

# Taken as they stand: a URL may hold what make or the shell would expand.
export CRAWL_URL := $(value URL)
export CRAWL_DEPTH := $(value DEPTH)
export WANTED_PYTHON := $(value PYTHON)

# Programs that keep a cache keep it here.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.run/pycache
export RUFF_CACHE_DIR := $(CURDIR)/.run/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.run/mypy

# What is behind a link belongs to somebody else: making it anew would empty it.
ifneq ($(shell test -L $(VENV) && echo link),)
$(shell rm -f $(VENV))
endif

# An environment whose interpreter is gone, or that was moved here, is made anew.
ifneq ($(wildcard $(VENV)/.made),)
ifneq ($(shell cat $(VENV)/.made && $(PY) -c 'print("runs")' 2>/dev/null),$(CURDIR) runs)
$(shell rm -f $(VENV)/.made $(VENV)/.run-installed $(VENV)/.dev-installed)
endif
endif

help:
	@echo "make run          crawl the sample site, or: make run URL=https://docs.example/ DEPTH=3"
	@echo "make install      only set up $(VENV)"
	@echo "make servers      Redis, PostgreSQL and RabbitMQ to play with, until Ctrl-C"
	@echo "make test         every test; installs what they need where it may"
	@echo "make test-all     the same, with the long versions"
	@echo "make lint         formatting, lint, types"
	@echo "make bench        the benchmarks (bench-levels: what exact levels cost; bench-docs: beside Scrapy;"
	@echo "                  bench-frontier: what a page costs Redis; bench-latency: what the way there costs)"

run: $(VENV)/.run-installed
	@if [ -n "$$CRAWL_URL" ]; then \
	    exec $(VENV)/bin/crawlfarm run "$$CRAWL_URL" --depth "$${CRAWL_DEPTH:-2}"; \
	elif [ -n "$$CRAWL_DEPTH" ]; then \
	    exec $(VENV)/bin/crawlfarm run --sample --depth "$$CRAWL_DEPTH"; \
	else \
	    exec $(VENV)/bin/crawlfarm run --sample; \
	fi

install: $(VENV)/.run-installed

servers: $(VENV)/.dev-installed
	@exec $(PY) -m tests.support.servers

test: $(VENV)/.dev-installed
	@exec $(PY) -m tests.run

test-all: $(VENV)/.dev-installed
	@CRAWLFARM_TEST_LONG=1 $(PY) -m tests.run

lint: $(VENV)/.dev-installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: bench-levels bench-docs bench-frontier bench-latency

bench-levels: $(VENV)/.dev-installed
	@exec $(PY) -m tests.bench.levels

bench-docs: $(VENV)/.dev-installed
	@exec $(PY) -m tests.bench.docs

bench-frontier: $(VENV)/.dev-installed
	@exec $(PY) -m tests.bench.frontier

bench-latency: $(VENV)/.dev-installed
	@exec $(PY) -m tests.bench.latency

# --- the environment ---------------------------------------------------------------

# Prints the path of a Python that can make the environment, or says what is missing.
define MAKE_VENV
set -eu
fits() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
whole() { "$$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
found= bare=
for name in $${WANTED_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
    fits "$$name" || continue
    bare="$${bare:-$$name}"
    if whole "$$name"; then found="$$name"; break; fi
done
if [ -z "$$bare" ]; then
    echo "crawlfarm needs Python 3.11 or later, and none of these is one:" \
         "$${WANTED_PYTHON:-python3, python3.14, python3.13, python3.12, python3.11}." >&2
    echo "Install it (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if [ -z "$$found" ]; then
    version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package="python$$version-venv"
    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing $$package, which Debian keeps apart from Python" >&2
        export DEBIAN_FRONTEND=noninteractive
        log=$$(apt-get update -qq 2>&1 && apt-get install -y -qq --no-install-recommends "$$package" 2>&1) \
            || { echo "$$log" >&2; exit 1; }
    fi
    if ! whole "$$bare"; then
        echo "$$bare cannot make a virtual environment: its venv module is not installed." >&2
        echo "On Debian and Ubuntu: sudo apt install $$package" >&2
        exit 1
    fi
    found="$$bare"
fi
echo "setting up .venv with $$("$$found" --version) (once)" >&2
"$$found" -m venv --clear .venv
pwd > .venv/.made
endef

$(VENV)/.made: export MAKE_VENV_SCRIPT = $(MAKE_VENV)
$(VENV)/.made:
	@sh -c "$$MAKE_VENV_SCRIPT"

# The metadata setuptools leaves beside the sources is a copy of what is in .venv.
$(VENV)/.run-installed: pyproject.toml $(VENV)/.made
	@echo "installing crawlfarm into $(VENV)" >&2
	@$(PIP_INSTALL) -e .
	@rm -rf crawlfarm.egg-info
	@touch $@

$(VENV)/.dev-installed: pyproject.toml $(VENV)/.made
	@echo "installing crawlfarm and what its tests need into $(VENV)" >&2
	@$(PIP_INSTALL) -e '.[dev]'
	@rm -rf crawlfarm.egg-info
	@touch $@ $(VENV)/.run-installed
