# make demo: set up, and call the example.   make lint: ruff and mypy.
# make test: set up, and run the tests.      make test-heavy: the others, which take long or need more.
# make docs: the site, in docs/html.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-heavy lint docs clean

demo: $(VENV)/.installed
	$(BIN)/virnucpro predict examples/mixed.fa -o demo --device cpu --force --report
	@echo
	@$(BIN)/python examples/read_result.py demo/mixed.sequences.tsv
	@echo
	@echo "The models of the package are small: virnucpro/models/embedded/mini/MODEL_CARD.md says how far to trust them."
	@echo "All results are in demo/; docs/outputs.md explains every file and column. In a browser:"
	@echo "demo/mixed.report.html"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-heavy: $(VENV)/.installed-heavy $(VENV)/tools/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m heavy

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W -d build/doctrees docs docs/html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.installed-heavy: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[heavy]'
	touch $@

$(VENV)/tools/.installed: packaging/tools.txt
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist docs/html *.egg-info
