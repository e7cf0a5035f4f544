# make run        execute the notebook; the result goes to runs/
# make notebook   open it in Jupyter
# make explain    IMAGE=mine.png: classify a picture of your own and draw its Grad-CAM grid
# make test       unit tests, the notebook in smoke mode, style
# make evaluate   measure the published weights again
# make pages      fill the tables of the pages from the results
# make publish    put the executed notebook of a full run in the committed one's place
# make rehearse   a full run in small, in a copy of the checkout, with all that follows it
# make bench      training and maps against the assignment's way, in turn
# make gpu        every figure that needs a GPU, in ten minutes
# make owner      NAME=account: write the account that publishes this repository in OWNER's place
# make matrix     the tests with other versions and Pythons; 3 GB of downloads for each
# Each makes the environment it needs first. Another Python: rm -rf .venv; make PYTHON=python3.13 run

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOK := S8_ResNet18_LayerNorm.ipynb

.PHONY: run notebook explain test evaluate pages publish rehearse bench gpu owner matrix
run: .venv/installed
	$(BIN)/python -m scripts.run_notebook

notebook: .venv/installed
	$(BIN)/jupyter lab $(NOTEBOOK)

explain: .venv/installed
	$(BIN)/python -m scripts.explain $(IMAGE)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -q
	S8_MODE=smoke S8_DRIVE= $(BIN)/pytest -q --nbval-lax $(NOTEBOOK)

evaluate: .venv/installed
	$(BIN)/python -m scripts.evaluate

pages: .venv/installed
	$(BIN)/python -m scripts.pages

publish: .venv/installed
	$(BIN)/python -m scripts.publish

rehearse: .venv/installed
	$(BIN)/python -m scripts.rehearse

bench: .venv/installed
	$(BIN)/python -m benchmarks.train_speed
	$(BIN)/python -m benchmarks.cam_speed

gpu: .venv/installed
	PATH=$(CURDIR)/$(BIN):$$PATH benchmarks/gpu.sh

owner:
	sed -i.bak 's/OWNER/$(NAME)/g' README.md CITATION.cff $(NOTEBOOK) && rm README.md.bak CITATION.cff.bak $(NOTEBOOK).bak

matrix:
	tests/matrix.sh

.venv/installed: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 run")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -r requirements-dev.txt
	touch $@
