# make demo     everything from a fresh machine to the demonstration on a real data set
# make test     everything from a fresh machine to the tests
# make bench-micro NAME=mine   figures beside their floors; bench/results/mine.md
PYTHON ?= python3
export PYTHON

NAME ?= last

BIN := .venv/bin
C_FILES = $(wildcard csrc/*.[ch] tests/c/*.[ch] bench/floors/*.[ch])
STUBTEST = pystream._native --mypy-config-file pyproject.toml --ignore-disjoint-bases \
	--allowlist tools/stubtest-allow.txt --ignore-unused-allowlist
PY_FILES = pystream tests bench tools setup.py

.PHONY: all demo test bench-micro lint format wheel-smoke clean help

all: test

demo:
	@tools/setup.sh demo
	@$(BIN)/pystream demo $(DEMO)

test:
	@tools/setup.sh test
	$(BIN)/python -m pytest $(PYTEST)

bench-micro:
	@tools/setup.sh test
	@mkdir -p bench/results
	$(BIN)/python -m pytest bench -q -W default --benchmark-only --benchmark-columns=median \
		--benchmark-json=bench/results/$(NAME).json $(PYTEST)
	@$(BIN)/python bench/table.py bench/results/$(NAME).json

lint:
	@tools/setup.sh test
	$(BIN)/ruff check $(PY_FILES)
	$(BIN)/ruff format --check $(PY_FILES)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest $(STUBTEST)
	clang-format --dry-run -Werror $(C_FILES)
	cc -std=gnu11 -O2 -Wall -Wextra -Werror -fsyntax-only $$(pkg-config --cflags liblz4 libxxhash) -Icsrc $(wildcard csrc/*.c)

format:
	@tools/setup.sh test
	$(BIN)/ruff check --fix $(PY_FILES)
	$(BIN)/ruff format $(PY_FILES)
	clang-format -i $(C_FILES)

# A wheel for each other CPython on this machine: built, installed alone, one round trip.
wheel-smoke:
	@tools/wheel-smoke.sh

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find pystream -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@grep -E '^[a-z-]+:' Makefile | cut -d: -f1
