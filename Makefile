# make demo      everything from a fresh machine to the demonstration on a real data set
# make test      everything from a fresh machine to the tests
# make stress TIME=2h SEED=7   processes that write, read, die and stop at one store, and a check of it all
# make mutations               the library broken on purpose, in copies: the stress has to notice each time
# make campaign TEST=power TIME=1h   tests of durability, counted in tests/campaign/ledger.jsonl; no TEST: all
# make fuzz TIME=8h TARGET=frame   every decoder fuzzed, or this one, by clang's libFuzzer with sanitizers
# make docs      the documentation, into site/; a warning is an error
# make wheels    the source distribution and a wheel for each CPython found, into dist/, tried without liblz4
# make lint      the linters and type checkers;  make format  puts right what they can
# make bench-micro NAME=mine   figures beside their floors, into bench/results/mine.md
# make bench-pipes             lines through produce and consume beside cat, into bench/results/pipes.md
# make bench-transfer          ingest and export beside pyarrow, into bench/results/transfer.md
# make bench-groups            hand-over between members of a group, into bench/results/groups.md
# make bench-recovery          opening after a crash, the loss bound, group commit, backups, into bench/results/recovery.md
# make clean     removes all that these made
PYTHON ?= python3
export PYTHON

NAME ?= last
TIME ?= 5m
TEST ?= all

BIN := .venv/bin
C_FILES = $(wildcard csrc/*.[ch] tests/c/*.[ch] tests/faults/*.[ch] tests/fuzz/*.[ch] bench/floors/*.[ch])
STUBTEST = pystream._native --mypy-config-file pyproject.toml --ignore-disjoint-bases \
	--allowlist tools/stubtest-allow.txt --ignore-unused-allowlist
PY_FILES = pystream tests bench docs examples tools setup.py
SH_FILES = tools/*.sh .ci/run

.PHONY: all demo test stress mutations fuzz campaign docs wheels lint format bench-micro bench-pipes bench-transfer bench-groups bench-recovery clean help

all: test

demo:
	@tools/setup.sh demo
	@$(BIN)/pystream demo $(DEMO)

test:
	@tools/setup.sh test
	$(BIN)/python -m pytest $(PYTEST)

stress:
	@tools/setup.sh test
	$(BIN)/python -m tests.stress --seconds $(TIME) $(if $(SEED),--seed $(SEED)) $(STRESS)

mutations:
	@tools/setup.sh test
	$(BIN)/python -m tests.stress.mutations $(MUTATIONS)

campaign:
	@tools/setup.sh test
	$(BIN)/python -m tests.campaign $(TEST) --time $(TIME) $(if $(SEED),--seed $(SEED)) $(CAMPAIGN)

fuzz:
	@tools/setup.sh test
	$(BIN)/python -m tests.fuzz --seconds $(TIME) $(if $(TARGET),--target $(TARGET)) $(FUZZ)

docs:
	@tools/setup.sh docs
	$(BIN)/python -m mkdocs build --strict --quiet

wheels:
	@tools/setup.sh wheels
	@tools/wheels.sh dist $(VERSIONS)
	@tools/wheel-smoke.sh dist/*.whl

lint:
	@tools/setup.sh test
	$(BIN)/ruff check $(PY_FILES)
	$(BIN)/ruff format --check $(PY_FILES)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest $(STUBTEST)
	$(BIN)/shellcheck -x $(SH_FILES)
	clang-format --dry-run -Werror $(C_FILES)
	cc -std=gnu11 -O2 -Wall -Wextra -Werror -fsyntax-only $$(pkg-config --cflags liblz4 libxxhash) -Icsrc $(wildcard csrc/*.c)

format:
	@tools/setup.sh test
	$(BIN)/ruff check --fix $(PY_FILES)
	$(BIN)/ruff format $(PY_FILES)
	clang-format -i $(C_FILES)

bench-micro:
	@tools/setup.sh test
	@mkdir -p bench/results
	$(BIN)/python -m pytest bench -q -W default --benchmark-only --benchmark-columns=median \
		--benchmark-json=bench/results/$(NAME).json $(PYTEST)
	@$(BIN)/python bench/table.py bench/results/$(NAME).json

bench-pipes bench-transfer bench-groups bench-recovery: bench-%:
	@tools/setup.sh test
	@mkdir -p bench/results
	$(BIN)/python bench/$*.py $(BENCH)

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find pystream -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
