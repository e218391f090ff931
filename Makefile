# ocps: `make` lists what there is.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
UNITDIR ?= /lib/systemd/system
SYSCONFDIR ?= /etc

bindir = $(DESTDIR)$(PREFIX)/bin
unitdir = $(DESTDIR)$(UNITDIR)
sysconfdir = $(DESTDIR)$(SYSCONFDIR)
target = $(or $(CARGO_TARGET_DIR),target)
sim = $(target)/sim

.DEFAULT_GOAL := help
.PHONY: help build sim test check fmt bench install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
	  printf '  make %-10s %s\n' "$$name" "$$text"; done
	@echo '  DESTDIR and PREFIX [$(PREFIX)] are respected by install and uninstall.'

build: ## build the program with all it can do (release)
	$(CARGO) build --locked --release

sim: ## run a simulated OCPS and a prompt to command it; also: echo 'execute pipeline=true.yaml' | make sim
	@$(CARGO) build --locked --no-default-features --bin ocps
	@mkdir -p $(sim)
	@printf '[simulation]\nmean_duration_s = 2\nsigma_s = 0.5\n' > $(sim)/ocps.toml
	@$(target)/debug/ocps run 1 --simulate --state enabled --config $(sim)/ocps.toml \
	   --socket $(sim)/ocps.sock </dev/null 2>$(sim)/ocps.log & daemon=$$!; \
	 trap 'kill $$daemon 2>/dev/null; wait $$daemon' EXIT; trap : INT; \
	 $(target)/debug/ocps console --socket $(sim)/ocps.sock --wait 10 || \
	   { code=$$?; cat $(sim)/ocps.log >&2; exit $$code; }

test: ## run all tests that need nothing else installed
	$(CARGO) test --locked --no-default-features
	$(CARGO) test --locked

check: ## formatting, lints, docs, no async runtime, nothing drifted
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items --quiet
	@if $(CARGO) tree --locked -e normal --prefix none | \
	   grep -E '^(tokio|async-std|smol|mio|hyper|futures-executor|async-executor) '; then \
	   echo 'an async runtime is in the tree' >&2; exit 1; fi
	@sh tests/drift.sh

fmt: ## format the code
	$(CARGO) fmt

bench: ## measure, as ratios to the bare limit of this machine
	$(CARGO) bench --locked

install: build ## install the program, its links, the unit and example configuration
	install -D -m 755 $(target)/release/ocps $(bindir)/ocps
	ln -sf ocps $(bindir)/run_ocps
	ln -sf ocps $(bindir)/run_OCPS.py
	install -d $(unitdir)
	sed 's|/usr/bin/ocps|$(PREFIX)/bin/ocps|' ocps.service > $(unitdir)/ocps.service
	chmod 644 $(unitdir)/ocps.service
	@# What an operator changed is kept.
	test -e $(sysconfdir)/ocps/ocps.toml || install -D -m 644 etc/ocps.toml $(sysconfdir)/ocps/ocps.toml
	test -e $(sysconfdir)/ocps/OCPS/v4/_init.yaml || \
	  install -D -m 644 etc/OCPS/v4/_init.yaml $(sysconfdir)/ocps/OCPS/v4/_init.yaml

uninstall: ## remove what install put there, but not the configuration
	rm -f $(bindir)/ocps $(bindir)/run_ocps $(bindir)/run_OCPS.py $(unitdir)/ocps.service

clean: ## remove what was built
	$(CARGO) clean
