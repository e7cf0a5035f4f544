# make run          execute the notebook; the result goes to runs/
# make test         unit tests, the notebook in smoke mode, style
# make evaluate     the published weights against the published figures; no GPU needed
# make bench        training and explanations against the assignment's way, side by side; the figures go to runs/
# make test-faults  a training killed again and again, with a table of the outcomes; minutes
# make test-matrix  the tests with other versions and Pythons; 3 GB of downloads for each
# Each makes the environment it needs first. Another Python: rm -rf .venv; make PYTHON=python3.13 run

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOK := S8_ResNet18_LayerNorm.ipynb

.PHONY: run test evaluate bench test-faults test-matrix
run: .venv/installed
	$(BIN)/python -m utils.run_notebook

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -q
	S8_SMOKE=1 $(BIN)/pytest -q --nbval-lax $(NOTEBOOK)

evaluate: .venv/installed
	$(BIN)/python -m utils.check_weights

bench: .venv/installed
	$(BIN)/python -m benchmarks.train_speed
	$(BIN)/python -m benchmarks.cam_speed

test-faults: .venv/installed
	$(BIN)/python -m tests.faults.kill

test-matrix:
	tests/matrix.sh

.venv/installed: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 run")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -r requirements-dev.txt
	touch $@
