# The front door: every target makes .venv first, from nothing but python3 (3.11 or newer, with venv).
PYTHON ?= python3
FOLDER ?= inbox
LISTEN ?= 127.0.0.1:8080
FUZZ_SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
# uv trusts certificates of its own unless told to trust the system's, which companies add theirs to.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS := true
export UV_NATIVE_TLS := true
endif

# What has to work on Windows and macOS, too: the library and the client's commands, with all they import.
EVERYWHERE := -p bitsferry.client $(patsubst %,-m bitsferry.cli.%,main send jobs bitsadmin)

.PHONY: help setup peers demo serve test check format bench bench-client fuzz harm clean
help:
	@echo "make demo    send a real file, kill the server in the middle, see it go on"
	@echo "make test    run the tests"
	@echo "make serve   receive files into ./$(FOLDER) on http://$(LISTEN)/"
	@echo "make check   lint, types, lock, words"
	@echo "make peers   on Debian, install what more tests talk to: a KDC, Samba, nginx (root)"
	@echo "make bench   server CPU per GiB beside a plain C loop and nginx (needs cc)"
	@echo "make bench-client   what a long line lets through, the client's CPU per GiB (needs cc, curl, nginx, root)"
	@echo "make fuzz    bytes nobody expects, FUZZ_SECONDS=60 for each of the targets"
	@echo "make harm    what honest uploads keep while somebody means harm (needs cc)"
	@echo "make setup   only make $(BIN)/bitsferry"

setup: $(READY)

$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("bitsferry needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 " ) if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, 'apt-get install python3-venv'"; exit 1; }
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5,<1'
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --quiet --inexact --python $(BIN)/python
	@touch $@

demo: $(READY)
	@$(BIN)/python -m bitsferry.cli.demo

serve: $(READY)
	@$(BIN)/bitsferry serve $(FOLDER) --listen $(LISTEN)

test: $(READY)
	@$(BIN)/python -m pytest -n auto

check: $(READY)
	@$(UV) lock --check --quiet
	@$(BIN)/ruff check src tests bench examples
	@$(BIN)/ruff format --check src tests bench examples
	@$(BIN)/mypy
	@for system in win32 darwin; do \
		$(BIN)/mypy --platform $$system --cache-dir .mypy_cache/$$system $(EVERYWHERE) || exit 1; \
	done

format: $(READY)
	@$(BIN)/ruff check --fix src tests bench examples
	@$(BIN)/ruff format src tests bench examples

# What some tests talk to, where it can be had; without it they are skipped. Nothing of it is started.
PEERS := krb5-kdc krb5-admin-server krb5-user libkrb5-dev gcc python3-dev winbind apache2-utils nginx-light curl openssl
peers: $(READY)
	@test "$$(id -u)" = 0 || { echo "only root may install packages: $(PEERS)"; exit 1; }
	@command -v apt-get >/dev/null || { echo "install by hand: $(PEERS)"; exit 1; }
	@DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 timeout 300 sh -c 'apt-get -qq update; apt-get -qq install -y --no-install-recommends $(PEERS)' >/dev/null
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --quiet --inexact --extra kerberos --python $(BIN)/python

bench: $(READY)
	@$(BIN)/python bench/run.py $(BENCH)

bench-client: $(READY)
	@$(BIN)/python bench/slow_line.py
	@$(BIN)/python bench/client_cpu.py

fuzz: $(READY)
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --quiet --inexact --group fuzz --python $(BIN)/python \
		|| echo "atheris cannot be had here; hypothesis does its work"
	@cd tests && ../$(BIN)/python -m fuzz.longer --seconds $(FUZZ_SECONDS) $(FUZZ)

harm: $(READY)
	@$(BIN)/python bench/attacks.py $(HARM)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz demo
