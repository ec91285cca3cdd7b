# What one types here. Everything is installed into .venv and nowhere else; `make clean` takes it all away again.
PYTHON ?= python3
PG15 ?= /usr/lib/postgresql/15
# Of the soak. Ten have some 470 faults and a dozen set-backs; 45 have the 1,500 and 40 that ops/PROOF.md is to have.
MINUTES ?= 10
BIN := .venv/bin
# What `make engines` has beside what tests have: Spark, from pip and Maven, and the DuckDB that its extension was made for.
SPARK := pyspark==4.1.4
JARS := org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0 org.apache.iceberg:iceberg-aws-bundle:1.12.0 \
	org.postgresql:postgresql:42.7.14
DUCKDB := duckdb==1.5.5 duckdb-extensions==1.5.5 duckdb-extension-avro==1.5.5 duckdb-extension-iceberg==1.5.5

# Where there is cargo, what is built from it is installed anew when it changes.
DECODER := $(wildcard etl/wire/native/*.toml etl/wire/native/*.py etl/wire/native/src/*.rs)

# What each extra contains, itself included: having installed the larger one is having installed the smaller.
CONTAINS_embedded := embedded
CONTAINS_test := embedded test
CONTAINS_dev := embedded test dev

.PHONY: help demo test test-pg15 nightly check audit hashes faults fuzz fuzz-decoder bench engines soak proof screenshots wheel man clean check-decoder
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile

demo: .venv/.has-embedded ## a dialler, the loader and a report, on private servers
	@$(BIN)/etl demo

# Most tests wait for servers and processes most of the time: four at once suit two cores.
test: .venv/.has-test ## the whole test suite, on private servers
	@$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal

test-pg15: .venv/.has-test ## what depends on Postgres' version, on the oldest that will do: Debian's 15
	@$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal --timeout=600 --postgres=$(PG15) -m 'versions and not nightly' tests

# The examples are new ones, and ten times as many. What it writes is committed.
nightly: .venv/.has-test ## what is too heavy for every change: other examples, the benchmark, the soak
	@$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal --timeout=1800 --hypothesis-profile=nightly \
		-m 'nightly or hypothesis' --results ./tests/nightly.json
	@$(MAKE) --no-print-directory soak

check: .venv/.has-dev ## style, types and the boundaries between rooms; where cargo is, of the compiled decoder, too
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@! command -v cargo >/dev/null || $(MAKE) --no-print-directory check-decoder

# What there is of Rust's tools: Debian's cargo has neither of the first two.
check-decoder:
	@cd etl/wire/native && export ETL_DECODER_STAMP=none CARGO_NET_OFFLINE=true && \
		{ ! cargo fmt --version >/dev/null 2>&1 || cargo fmt --check; } && \
		{ ! cargo clippy --version >/dev/null 2>&1 || cargo clippy --quiet --locked --all-targets -- --deny warnings; } && \
		cargo test --quiet --locked

# Pins that the advisory service doesn't know are failures too: a mirror without advisories would find nothing wrong.
audit: .venv/.has-auditor ## ask for known vulnerabilities of the pinned versions; needs the network
	@.venv/auditor/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt

# After each change of constraints.txt. What changes without a new version is somebody's forgery, until shown otherwise.
hashes: .venv/.has-test ## ops/requirements*-hashed.txt, from constraints.txt; needs the network
	@$(BIN)/python .ci/hashes.py

bench: .venv/.has-test ## how fast loader, listener and export are, beside the fastest that Postgres can be
	@$(BIN)/python -m tests.benchmarks

faults: .venv/.has-test ## the tests that kill, freeze and cut off, and the count of what they did
	@$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal tests/faults --tally tests/faults/results.json

# What it finds worth keeping goes to tests/fixtures/corpus, which the suite goes through.
fuzz: .venv/.has-fuzzer ## five minutes of looking for a message that breaks the decoder
	@.venv/fuzzer/bin/python -m tests.fuzz.wire --minutes 5 --keep

# Both decoders read the same messages; `.venv/bin/python -m tests.fuzz.decoder --help` says how to look further.
fuzz-decoder: .venv/.has-test ## ten minutes (or MINUTES=45) of looking for a message that the compiled decoder reads differently
	@$(BIN)/python -m tests.fuzz.decoder --minutes $(MINUTES)

engines: .venv/.has-test .venv/.has-engines ## Spark and others read the lake while it moves; into ops/ENGINES.md. Needs Java and Maven
	@$(BIN)/python -m tests.engines

soak: .venv/.has-embedded ## ten minutes of kills, outages and set-backs (or MINUTES=45) on private servers; into ops/SOAK.md
	@$(BIN)/etl selftest --minutes $(MINUTES) --report ops/SOAK.md --json > tests/faults/soak.json

proof: .venv/.has-test ## ops/PROOF.md and the README's table, from the results of `make bench`, `make soak` and `make faults`
	@$(BIN)/python -m tests.proof
	@$(BIN)/python -m tests.measured

screenshots: .venv/.has-test ## the pictures in docs/, of a simulated dialler's report; needs chromium
	@$(BIN)/python -m tests.screenshots

wheel: .venv/.has-test ## dist/*.whl, with the migrations inside
	@$(BIN)/python -m hatchling build --target wheel

man: .venv/.has-test ## dist/etl.1, the manual page
	@$(BIN)/python -m tests.manual dist/etl.1

clean: ## remove .venv, dist and the tools' caches
	@cd etl/wire/native && rm -rf target *.so
	@rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find etl migrations tests -name __pycache__ -prune -exec rm -rf {} +

# pip reads the constraints for the build backend from its environment only; which of the two names depends on pip's age.
.venv/.has-%: pyproject.toml constraints.txt $(DECODER) | .venv/.made
	@echo "installing into .venv (once; about half a minute)"
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_ROOT_USER_ACTION=ignore \
		$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch $(CONTAINS_$*:%=.venv/.has-%)

.venv/.has-auditor: | .venv/.made
	@echo "installing pip-audit into .venv/auditor (once)"
	@$(PYTHON) -m venv --clear .venv/auditor
	@.venv/auditor/bin/python -m pip install -qq --disable-pip-version-check 'pip-audit>=2.10,<3'
	@touch $@

# Of etl it needs what turns bytes into records only.
.venv/.has-fuzzer: | .venv/.made
	@echo "installing atheris into .venv/fuzzer (once)"
	@$(PYTHON) -m venv --clear .venv/fuzzer
	@PIP_CONSTRAINT=constraints.txt .venv/fuzzer/bin/python -m pip install -qq --disable-pip-version-check 'atheris>=3' msgspec
	@touch $@

# In an environment of their own: neither is what etl runs with. 200 MB of Spark's are its own jars.
.venv/.has-engines: | .venv/.made
	@for program in java mvn; do command -v $$program >/dev/null || { \
		echo "make engines runs Spark, and lacks '$$program': it needs Java 17 or newer, and Maven" >&2; exit 1; }; done
	@echo "installing Spark and its jars into .venv/engines (once; a few minutes, 600 MB)"
	@$(PYTHON) -m venv --clear .venv/engines
	@.venv/engines/bin/python -m pip install -qq --disable-pip-version-check $(SPARK) $(DUCKDB)
	@for jar in $(JARS); do mvn --batch-mode --quiet -Dmaven.repo.local=.venv/engines/maven -DoutputDirectory=.venv/engines/jars \
		-Dartifact=$$jar -Dmdep.useBaseVersion=true dependency:copy || exit 1; done
	@rm -rf .venv/engines/maven
	@touch $@

# The mark comes last, so that an interrupted attempt is begun afresh.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "name another one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@touch $@
