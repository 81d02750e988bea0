# One entry for everything: `make demo` and `make test` on a bare Debian 12 need nothing done first.
#
#     tools/packages.sh --> tools/venv.sh --> pip install -e . --> test, demo, bench, lint
#     (apt, if missing)     (.venv/.ready)    (.venv/.built)
#
# The two stamps live inside .venv, so that removing .venv starts from nothing.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# Python 3.11 or newer; empty means: let tools/venv.sh choose.
PYTHON ?=
# Where `make install` puts things; DESTDIR goes before it when a package is made.
PREFIX ?= /usr/local
DESTDIR ?=
# More arguments for pytest, e.g. make test ARGS='-k pageset -x'
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
# For what runs other programs: uffdtrack, and the redis-server that `programs` leaves there.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY)

# What the compiled module is made of. Python files need no rebuild: the install is editable.
COMPILED := setup.py $(wildcard uffdtrackd/native/build*.py uffdtrackd/native/api/*.h \
	uffdtrackd/native/c/*.[ch] uffdtrackd/native/helper/*.c parasite/*.[chS] parasite/*.lds parasite/arch/*)

.PHONY: build
build: $(VENV)/.built ## Make .venv with the package built inside; uffdtrack is in .venv/bin

.PHONY: demo
demo: programs ## Track a busy redis-server with a live table and prove that no write was missed
	@$(RUN) demo/run.py $(ARGS)

.PHONY: test
test: programs ## Run all tests, linters included
	@$(RUN) -m pytest $(ARGS)

.PHONY: test-kernels
test-kernels: build ## Run the rows of docs/soundness.md on Debian's kernels, in emulated machines
	@tools/packages.sh kernels
	@$(RUN) -m tests.kernels.run $(ARGS)

.PHONY: soak
soak: build ## Random memory operations for MINUTES=30, BACKEND=async or sync, from SEED
	@$(RUN) -m tests.soak.memory --minutes $(or $(MINUTES),30) --backend $(or $(BACKEND),async) \
		$(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: test-systemd
test-systemd: programs man ## Run what needs a real systemd, in a container booted for it (root)
	@$(RUN) -m tests.systemd.run $(ARGS)

.PHONY: lint
lint: build ## Run only the linters and the checks on the sources
	@$(PY) -m pytest -q tests/test_linters.py tests/test_floors.py $(ARGS)

.PHONY: format
format: build ## Rewrite the sources as ruff and clang-format want them
	@files=$$(git ls-files -co --exclude-standard '*.py' '*.pyi'); \
		$(PY) -m ruff check -q --fix-only $$files; $(PY) -m ruff format -q $$files
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs -r $(VENV)/bin/clang-format -i

# At most so many minutes; ARGS='--quick', '--resume', '--rows attach,iterate': tests/bench/run.py.
.PHONY: bench
bench: programs ## Measure the tracker beside the same work in plain C, in MINUTES=25
	@$(RUN) -m tests.bench.run --minutes $(or $(MINUTES),25) $(ARGS)

.PHONY: bench-criu
bench-criu: build ## Measure CRIU's pre-dump beside an iteration, in an emulated machine
	@tools/packages.sh kernels
	@$(RUN) -m tests.bench.criu $(ARGS)

.PHONY: bench-check
bench-check: build ## Compare a short run with the ratios of the last whole one
	@$(RUN) -m tests.bench.check $(ARGS)

.PHONY: man
man: build/.manual ## Make man pages and completions, in build/

build/.manual: $(VENV)/.built tools/manual.py $(wildcard docs/man/*.rst) \
		$(shell find uffdtrackd -name '*.py' ! -name _version.py)
	@$(PY) -m tools.manual build
	@touch $@

.PHONY: install
install: build man ## Install below PREFIX (/usr/local) and DESTDIR, with units and man pages
	@$(PY) tools/install.py install --prefix '$(PREFIX)' --destdir '$(or $(DESTDIR),/)'

.PHONY: uninstall
uninstall: build ## Remove what install put there
	@$(PY) tools/install.py uninstall --prefix '$(PREFIX)' --destdir '$(or $(DESTDIR),/)'

.PHONY: fuzz
fuzz: build ## Feed damaged frames, answers, logs and maps to their readers for MINUTES=10
	@$(PY) -m tests.fuzz.run --minutes $(or $(MINUTES),10) $(ARGS)

.PHONY: soak-daemon
soak-daemon: build ## Use one daemon for MINUTES=10: nothing of it grows, nothing is missed
	@$(PY) -m tests.soak.daemon --minutes $(or $(MINUTES),10) $(ARGS)

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f uffdtrackd/native/_native.c uffdtrackd/native/*.so uffdtrackd/native/uffd-inject
	rm -f uffdtrackd/_version.py
	find demo tests tools uffdtrackd -name __pycache__ -type d -prune -exec rm -rf {} + || true

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# Debian's redis-tools holds the server too, under a name of its own; see tools/packages.sh.
.PHONY: programs
programs: build
	@tools/packages.sh test
	@command -v redis-server >/dev/null || { \
		binary=$$(command -v redis-check-rdb) && ln -sfn "$$binary" $(VENV)/bin/redis-server; \
	} || echo 'warning: no redis-server here: what needs it will fail' >&2

# A venv holds absolute paths: one that was moved, or made for another PYTHON, is made again.
MADE_FOR := $(CURDIR) $(PYTHON)
ifneq ($(MADE_FOR),$(file <$(VENV)/.made-for))
.PHONY: $(VENV)/.ready
endif

$(VENV)/.ready: pyproject.toml tools/packages.sh tools/venv.sh
	@tools/packages.sh build
	@tools/venv.sh $(VENV) $(PYTHON)
	@echo '$(MADE_FOR)' > $(VENV)/.made-for
	@touch $@

$(VENV)/.built: $(VENV)/.ready $(COMPILED)
	@echo '==> building uffdtrackd into $(VENV)'
	@$(PY) -m pip install -qq --no-build-isolation --no-deps -e .
	@touch $@
