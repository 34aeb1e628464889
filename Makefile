# Needs make, pip and Python 3.11 or newer; everything else goes into .venv. Another interpreter: make PYTHON=...
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
CLUSTERS := docker or podman or apptainer or slurm or htcondor or kubernetes

# The user's own pip settings must not redirect what is installed.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/.example
	rm -rf $(DEMO)
	@set -e; export DRAWBAR_HOME="$(CURDIR)/$(DEMO)/home" PATH="$(CURDIR)/$(BIN):$$PATH"; \
	for engine in serial cwl snakemake yadage; do \
	  case $$engine in serial) file=reana.yaml ;; *) file=reana-$$engine.yaml ;; esac; \
	  printf '\n== %s\n' "$$engine"; \
	  drawbar run examples/dimuon/$$file --no-container --name $$engine --test --outputs $(DEMO)/$$engine; \
	done
	@echo
	@echo "The same analysis in four engines; the plots:"
	@find $(DEMO)/serial $(DEMO)/cwl $(DEMO)/snakemake $(DEMO)/yadage -name '*.png'

test: $(VENV)/.dev
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not slow and not ($(CLUSTERS))"

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# What is installed, each with a stamp, so that a changed pyproject.toml installs again.
$(VENV)/.example: EXTRAS = all,example
$(VENV)/.dev: EXTRAS = all,dev
$(VENV)/.example $(VENV)/.dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $@

# pip comes from the outer Python and not from ensurepip, which Debian's python3 lacks without python3-venv;
# `--target` also works where the system's own packages are marked as externally managed.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "drawbar needs Python 3.11 or newer, which '$(PYTHON)' is not; name one with: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null || \
	  { echo "'$(PYTHON)' has no pip; install it (Debian: apt-get install python3-pip)" >&2; exit 1; }
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	$(PYTHON) -m pip install --quiet \
	  --target "$$($@ -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip
