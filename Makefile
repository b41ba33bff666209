# `make run` and `make test` set up all they need in .venv: Python 3.11, 3.12 or 3.13 is enough.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do $$python -c \
  'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && { echo $$python; break; }; done)
VENV   := .venv
BIN    := $(VENV)/bin
# The tested CPU build. Plain `pip install torch` on Linux brings gigabytes of CUDA.
TORCH  ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The same set today and in a month; pyproject.toml has the ranges.
LOCK   := requirements/lock.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The frameworks that our adapters are tested with, as they are published.
PEERS  := pipecat livekit
# With a Wyoming client beside, which has no dependencies.
pipecat_WHEEL := pipecat-ai==1.14.0 wyoming==1.10.2
livekit_WHEEL := livekit-agents==1.8.9

.PHONY: run test clients coverage check format snapshots docs lock clean

run: $(VENV)/run.stamp  ## start the server with the shipped model on port 8080
	$(BIN)/lipwire serve

# Two files at a time: each test has one thread, and much of it waits. ARGS="-n 0" has them in turn.
test: $(VENV)/test.stamp  ## everything that needs no GPU
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Environments without lipwire: the adapters install beside today's frameworks, and are typed.
clients: $(PEERS:%=build/clients/%.stamp)  ## for tests/clients/test_adapters.py, which skips without

build/clients/%.stamp: Makefile $(wildcard examples/*.py clients/*/pyproject.toml clients/*/*/*.py clients/*/*/*/*/*.py)
	$(PYTHON) -m venv build/clients/$*
	build/clients/$*/bin/pip install -q mypy ./clients/python ./clients/$* $($*_WHEEL)
	cd clients/$* && MYPYPATH=. ../../build/clients/$*/bin/mypy --strict --namespace-packages \
	  --explicit-package-bases --no-error-summary $$(find . -name '*.py' -not -path './build/*') \
	  ../../examples/$*_*.py
	touch $@

coverage: $(VENV)/test.stamp  ## the same, and which lines it runs; the floors are in pyproject.toml
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term $(ARGS)
	$(BIN)/python -c 'import tomllib; [print(*floor) for floor in tomllib.load(open("pyproject.toml", \
	  "rb"))["tool"]["lipwire"]["coverage"].items()]' | while read folder floor; do echo "$$folder:"; \
	$(BIN)/python -m coverage report --include="$$folder/*" --fail-under=$$floor --format=total \
	|| exit 1; done

check: $(VENV)/test.stamp  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/test.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

snapshots: $(VENV)/test.stamp  ## what users hold, after a change on purpose
	LIPWIRE_SNAPSHOTS=write $(BIN)/python -m pytest -q tests/test_public_api.py

docs: $(VENV)/docs.stamp  ## the site, into build/site; a link that leads nowhere fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: | $(BIN)/python  ## newer packages, within the ranges of pyproject.toml
	$(BIN)/pip install -q uv
	rm -f uv.lock
	$(BIN)/uv lock -q
	{ sed '/^[^#]/,$$d' $(LOCK); $(BIN)/uv export -q --frozen --no-emit-project --no-hashes \
	  --no-annotate --no-header --extra train --extra dev --extra docs | grep -vE '^(nvidia|cuda)-|^triton=='; \
	} > $(LOCK).new
	mv $(LOCK).new $(LOCK)
	rm -f uv.lock

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "lipwire needs Python 3.11, 3.12 or 3.13 with venv: install python3.12 and python3.12-venv, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/pip install -q -c $(LOCK) -e .
	touch $@

$(VENV)/test.stamp: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -c "import torch" 2>/dev/null \
	|| $(BIN)/pip install -q --retries 0 --timeout 20 --index-url $(TORCH_INDEX) $(TORCH) 2>/dev/null \
	|| $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -c $(LOCK) -e '.[train,dev]'
	$(MAKE) -s headless-opencv
	touch $@ $(VENV)/run.stamp

# The site reads the sources and imports nothing of them: lipwire itself is not installed for it.
$(VENV)/docs.stamp: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"] \
	  ["optional-dependencies"]["docs"], sep="\n")' > $@.new
	$(BIN)/pip install -q -c $(LOCK) -r $@.new
	mv $@.new $@

# The tests' MediaPipe brings an OpenCV that wants libGL and lies in the folder of ours; where there
# is no libGL, ours is put back.
.PHONY: headless-opencv
headless-opencv:
	@$(BIN)/python -c "import cv2" 2>/dev/null || { \
	  version=$$($(BIN)/pip show opencv-python-headless | sed -n 's/^Version: //p'); \
	  $(BIN)/pip uninstall -q -y opencv-contrib-python; \
	  $(BIN)/pip install -q --no-deps --force-reinstall "opencv-python-headless==$$version"; \
	  $(BIN)/python -c "import cv2"; }
