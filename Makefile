# make demo   train, prune, quantize, export and verify a small network: the whole way in one go
# make test   every test, with every optional dependency
# make nightly  10,000 damaged and hostile files of every format
# make check  linters, types, documentation, known vulnerabilities
# make bench  timings against other ways of doing the same
# make docs   the documentation site, in site/
# make lock   requirements.lock anew, from the newest versions that fit together
# make clean  remove what make made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := openvino,executorch,detection,ray,hub,dev
TORCH := torch==2.13.0

export PIP_CONSTRAINT ?= requirements.lock
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test nightly check bench docs lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/core.stamp
	@$(BIN)/python -m pintsize.run.demo

test: $(VENV)/full.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal  # one thread each: two that spin on two cores starve each other

nightly: $(VENV)/full.stamp
	OMP_NUM_THREADS=1 PINTSIZE_MUTATIONS=10000 $(BIN)/pytest -n 2 --dist worksteal tests/deploy/test_hostile.py tests/models/onnx/test_bad_files.py

check: $(VENV)/full.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet
	@.ci/audit

# those that need no folder or file; the others tell what they need with --help
BARE = deploy pruning_coverage pruning_memory qat_step

bench: $(VENV)/full.stamp
	@for script in $(BARE:%=benchmarks/%.py); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(VENV)/full.stamp
	$(BIN)/mkdocs build --strict

lock:
	@folder=$$(mktemp -d) && echo '$(TORCH)' > $$folder/torch.txt \
	&& $(PYTHON) -m venv $$folder/venv \
	&& PIP_CONSTRAINT=$$folder/torch.txt $$folder/venv/bin/pip install -q -e '.[$(EXTRAS),timm]' hatchling editables \
	&& { sed -n '/^#/p' requirements.lock; \
	     $$folder/venv/bin/pip freeze --exclude pip --exclude-editable | sed -n '/^[^#]*==/{s/+cpu$$//;p}' | sort -f; \
	   } > $$folder/lock && mv $$folder/lock requirements.lock && rm -r $$folder

clean:
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The core alone is what a user gets from `pip install pintsize`.
$(VENV)/core.stamp: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pintsize needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/full.stamp: $(VENV)/core.stamp
	$(BIN)/pip install -q -e '.[$(EXTRAS)]'
	@touch $@
