# make demo      everything from a fresh machine to the demonstration on a real data set
# make test      everything from a fresh machine to the tests
# make stress TIME=2h SEED=7   processes that write, read, die and stop at one store, and a check of it all
# make mutations               the library broken on purpose, in copies: the stress has to notice each time
# make campaign TEST=power TIME=1h   tests of durability, counted in tests/campaign/ledger.jsonl; no TEST: all
# make fuzz TIME=8h TARGET=frame   every decoder fuzzed, or this one, by clang's libFuzzer with sanitizers
# make soak TIME=10m   writers at full speed through a topic of bounded size, with an eye on the disk
# make docs      the documentation, into site/; a warning is an error
# make wheels    the source distribution and a wheel for each CPython found, into dist/, tried without liblz4
# make lint      the linters and type checkers;  make format  puts right what they can
# make rivals    what others make, for make bench to measure: Python packages, servers and jars; none is started
# make bench BENCH=--quick     pystream beside floors and rivals, in turn, into bench/results/compare.md; the short form
# make bench-micro NAME=mine   figures beside their floors, into bench/results/mine.md
# make bench-pipes             lines through produce and consume beside cat, into bench/results/pipes.md
# make bench-transfer          ingest and export beside pyarrow, into bench/results/transfer.md
# make bench-groups            hand-over between members of a group, into bench/results/groups.md
# make bench-compaction        compaction beside reading and writing the same bytes once, into bench/results/compaction.md
# make bench-recovery          opening after a crash, the loss bound, group commit, backups, into bench/results/recovery.md
# make bench-growth            cost against size, and memory while streaming, into bench/results/growth.md and .png
# make bench-scale             10,000 partitions and 100,000 segments: time, memory, maps, into bench/results/scale.md
# make bench-busy              the main paths beside a busy Python thread, into bench/results/busy.md
# make instructions CHECK=1    instructions of the main paths, against those recorded; WRITE=1 records them
# make clean     removes all that these made
PYTHON ?= python3
export PYTHON

NAME ?= last
TIME ?= 5m
TEST ?= all

BIN := .venv/bin
C_FILES = $(wildcard csrc/*.[ch] tests/c/*.[ch] tests/faults/*.[ch] tests/fuzz/*.[ch] bench/*.[ch] bench/floors/*.[ch])
STUBTEST = pystream._native --mypy-config-file pyproject.toml --ignore-disjoint-bases \
	--allowlist tools/stubtest-allow.txt --ignore-unused-allowlist
PY_FILES = pystream tests bench docs examples tools setup.py
SH_FILES = tools/*.sh .ci/run

.PHONY: all demo test stress mutations fuzz campaign soak docs wheels lint format rivals bench bench-micro bench-pipes bench-transfer bench-groups bench-recovery bench-compaction bench-growth bench-scale bench-busy instructions clean help

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

soak:
	@tools/setup.sh test
	$(BIN)/python -m tests.soak --seconds $(TIME) $(SOAK)

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

rivals:
	@tools/setup.sh test
	@tools/rivals.sh

bench:
	@tools/setup.sh test
	$(BIN)/python bench/compare.py $(BENCH)

bench-micro:
	@tools/setup.sh test
	@mkdir -p bench/results
	$(BIN)/python -m pytest bench -q -W default --benchmark-only --benchmark-columns=median \
		--benchmark-json=bench/results/$(NAME).json $(PYTEST)
	@$(BIN)/python bench/table.py bench/results/$(NAME).json

bench-pipes bench-transfer bench-groups bench-recovery bench-compaction bench-growth bench-scale bench-busy: bench-%:
	@tools/setup.sh test
	@mkdir -p bench/results
	$(BIN)/python bench/$*.py $(BENCH)

instructions:
	@tools/setup.sh test
	$(BIN)/python bench/instructions.py $(if $(CHECK),--check) $(if $(WRITE),--write) $(INSTRUCTIONS)

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find pystream -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
