# ocps: `make` lists what there is.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
UNITDIR ?= /lib/systemd/system
SYSCONFDIR ?= /etc

bindir = $(DESTDIR)$(PREFIX)/bin
unitdir = $(DESTDIR)$(UNITDIR)
sysusersdir = $(DESTDIR)$(patsubst %/systemd/system,%/sysusers.d,$(UNITDIR))
sysconfdir = $(DESTDIR)$(SYSCONFDIR)
datadir = $(DESTDIR)$(PREFIX)/share
mandir = $(datadir)/man
target = $(or $(CARGO_TARGET_DIR),target)
sim = $(target)/sim
# TLS and SASL to Kafka need OpenSSL: the system's where its headers are, else one that is compiled in, which takes
# perl and some minutes; without perl the program is built without them.
ifeq ($(shell pkg-config --exists openssl 2>/dev/null && echo yes),yes)
export OPENSSL_NO_VENDOR = 1
else ifneq ($(shell perl -MFindBin -MIPC::Cmd -MTime::Piece -e 'print "yes"' 2>/dev/null),yes)
features ?= --no-default-features --features kafka,redis,terminal,tls
endif

.DEFAULT_GOAL := help
.PHONY: help build sim test simulate chaos chaos-kafka test-kafka test-container test-redis test-genuine test-root test-systemd fuzz check fmt bench install deb uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
	  printf '  make %-14s %s\n' "$$name" "$$text"; done
	@echo '  DESTDIR and PREFIX [$(PREFIX)] are respected by install and uninstall.'

build: ## build the program with all it can do (release)
	$(CARGO) build --locked --release $(features)

sim: ## run a simulated OCPS and a prompt to command it; also: echo 'execute pipeline=true.yaml' | make sim
	@$(CARGO) build --locked --no-default-features --features terminal --bin ocps
	@if $(target)/debug/ocps state --socket $(sim)/ocps.sock >/dev/null 2>&1; then \
	   echo 'a simulation is running already; to command it: $(target)/debug/ocps console --socket $(sim)/ocps.sock' >&2; \
	   exit 1; fi
	@mkdir -p $(sim)
	@printf '[simulation]\nmean_duration_s = 2\nsigma_s = 0.5\n' > $(sim)/ocps.toml
	@$(target)/debug/ocps run 1 --simulate --no-kafka --state enabled --config $(sim)/ocps.toml \
	   --socket $(sim)/ocps.sock --state-dir $(sim)/state </dev/null 2>$(sim)/ocps.log & daemon=$$!; \
	 trap 'kill $$daemon 2>/dev/null; wait $$daemon' EXIT; trap : INT; \
	 $(target)/debug/ocps console --socket $(sim)/ocps.sock --wait 60 || \
	   { code=$$?; [ $$code = 130 ] || cat $(sim)/ocps.log >&2; exit $$code; }

# Most tests wait more than they compute.
test: export RUST_TEST_THREADS ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN))
test: ## run all tests that need nothing else installed
	$(CARGO) test --locked --no-default-features
	@# What features change, and the program as it is installed; the rest is the same in both builds.
	$(CARGO) test --locked $(features) --lib --bins --test cli --test daemon --test kafka --test redis --test uws

# Runs by `make simulate`.
SEEDS ?= 10000

simulate: ## run the core and the journal SEEDS times [10000] with faults and crashes, in virtual time
	OCPS_SEEDS=$(SEEDS) $(CARGO) test --locked --profile simulation --no-default-features --test simulation -- --nocapture

# Kills by `make chaos`; SEED=n goes the way of that seed.
KILLS ?= 1000

chaos: ## kill the real daemon KILLS times [1000] while jobs run, also behind a bad gateway, and count what is lost or doubled
	OCPS_KILLS=$(KILLS) $(if $(SEED),OCPS_SEED=$(SEED)) $(CARGO) test --locked --no-default-features --test chaos -- --nocapture

test-kafka: ## test against a real Apache Kafka, which is downloaded (needs Java and Maven)
	tests/kafka/real.sh

chaos-kafka: ## kill the daemon KILLS times [10] with empty directories, and three real brokers in turn (needs Java and Maven)
	tests/kafka/real.sh brokers

test-container: ## test in containers, the observatory's and those of etc/kubernetes, with a real Apache Kafka (as root, needs Java and Maven)
	tests/container/run.sh

test-redis: ## test Rapid Analysis against a real redis-server, which must be installed
	@command -v redis-server >/dev/null || { echo 'redis-server is not installed: apt-get install redis-server' >&2; exit 1; }
	$(CARGO) test --locked --test redis -- --include-ignored

test-genuine: ## compare with the genuine uws-api-server: UWS_SERVER_DIR=its folder server/ UWS_RUNNER=a program that runs it (see tests/genuine.rs)
	@test -f "$(UWS_SERVER_DIR)/server.py" || \
	  { echo 'UWS_SERVER_DIR must be the folder server/ of lsst-dm/uws-api-server, unpacked' >&2; exit 1; }
	@test -f "$(UWS_RUNNER)" || { echo 'UWS_RUNNER must be a program that runs it (see tests/genuine.rs)' >&2; exit 1; }
	UWS_SERVER_DIR='$(UWS_SERVER_DIR)' UWS_RUNNER='$(UWS_RUNNER)' \
	  $(CARGO) test --locked --no-default-features --test genuine -- --include-ignored

test-root: ## test full disks, and clients in another PID namespace (as root: it mounts file systems)
	@unshare --mount --pid --fork true || { echo 'test-root: no file system can be mounted here' >&2; exit 1; }
	$(CARGO) test --locked --no-default-features --test journal --test daemon -- --ignored full_disk pid_namespace

test-systemd: ## test the installed service and the Debian package with a real systemd, in a sandbox (as root, needs cargo-deb)
	$(CARGO) build --locked --bin ocps --example uws-service
	@$(MAKE) --no-print-directory deb BIN=$(target)/debug/ocps DEBFLAGS=--fast
	tests/systemd/run.sh $(target)/debug

# What to fuzz (all targets of tests/hostile, if none is named), and for how long each.
TARGET ?=
SECONDS ?= 60
fuzz = $(target)/fuzz
fuzz_flags = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address
fuzz_host = $(shell rustc -vV | sed -n 's/^host: //p')

fuzz: ## give hostile input to all that reads from outside, with libFuzzer (needs g++); TARGET=uws SECONDS=600
	cp Cargo.lock tests/fuzz/Cargo.lock
	@# The sanitizer's flag is one of nightly compilers.
	RUSTC_BOOTSTRAP=1 RUSTFLAGS='$(fuzz_flags)' $(CARGO) build --release --manifest-path tests/fuzz/Cargo.toml \
	  --target-dir $(fuzz) --target $(fuzz_host)
	@for name in $(or $(TARGET),$$($(fuzz)/$(fuzz_host)/release/fuzz)); do \
	   mkdir -p $(fuzz)/corpus/$$name $(fuzz)/found; echo "$$name:"; \
	   OCPS_TARGET=$$name OCPS_SAMPLES=$(fuzz)/corpus/$$name $(fuzz)/$(fuzz_host)/release/fuzz \
	     $(fuzz)/corpus/$$name -artifact_prefix=$(fuzz)/found/$$name- -max_total_time=$(SECONDS) \
	     -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 || \
	     { echo "read it again with OCPS_INPUT=$(abspath $(fuzz))/found/FILE cargo test --test hostile $$name"; exit 1; }; \
	 done

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

# A small build, which is measured too.
SMALL ?= $(abspath $(target))/small/ocps

bench: ## measure, as ratios to the bare limit of this machine (takes 12 min); ONLY=lag,polls FULL=1 POLL=list (see tests/bench/bench.rs)
	$(if $(findstring resources,$(or $(ONLY),resources)),$(CARGO) build --locked --profile small --no-default-features)
	SMALL='$(SMALL)' ONLY='$(ONLY)' FULL='$(FULL)' POLL='$(POLL)' PROGRAM='$(PROGRAM)' $(CARGO) bench --locked $(features) --bench bench

# What `make install` installs; name another one to install without a release build.
BIN ?= $(target)/release/ocps

install: $(if $(filter $(target)/release/ocps,$(BIN)),build) ## install the program, its units, manuals, completions and example configuration
	install -D -m 755 $(BIN) $(bindir)/ocps
	ln -sf ocps $(bindir)/run_ocps
	ln -sf ocps $(bindir)/run_OCPS.py
	install -d $(unitdir)
	sed 's|/usr/bin/ocps|$(PREFIX)/bin/ocps|' ocps.service > $(unitdir)/ocps.service
	sed -f etc/instance.sed $(unitdir)/ocps.service > $(unitdir)/ocps@.service
	chmod 644 $(unitdir)/ocps.service $(unitdir)/ocps@.service
	install -m 644 etc/ocps-http.socket $(unitdir)/ocps-http.socket
	install -D -m 644 etc/sysusers.d/ocps.conf $(sysusersdir)/ocps.conf
	install -D -m 644 -t $(mandir)/man1 etc/man/ocps.1
	install -D -m 644 -t $(mandir)/man5 etc/man/ocps.toml.5
	install -D -m 644 -t $(mandir)/man7 etc/man/ocps-protocol.7
	install -D -m 644 etc/completions/ocps.bash $(datadir)/bash-completion/completions/ocps
	install -D -m 644 etc/completions/ocps.zsh $(datadir)/zsh/site-functions/_ocps
	install -D -m 644 etc/completions/ocps.fish $(datadir)/fish/vendor_completions.d/ocps.fish
	install -D -m 644 etc/prometheus/ocps.rules.yml $(datadir)/ocps/prometheus/ocps.rules.yml
	install -D -m 644 etc/grafana/ocps.json $(datadir)/ocps/grafana/ocps.json
	@# What an operator changed is kept.
	test -e $(sysconfdir)/ocps/ocps.toml || install -D -m 644 etc/ocps.toml $(sysconfdir)/ocps/ocps.toml
	test -e $(sysconfdir)/ocps/OCPS/v4/_init.yaml || \
	  install -D -m 644 etc/OCPS/v4/_init.yaml $(sysconfdir)/ocps/OCPS/v4/_init.yaml

deb: $(if $(filter $(target)/release/ocps,$(BIN)),build) ## make a Debian package in target/debian (needs cargo-deb)
	rm -rf target/deb-root
	@$(MAKE) --no-print-directory install PREFIX=/usr UNITDIR=/usr/lib/systemd/system DESTDIR=target/deb-root BIN=$(BIN) >/dev/null
	$(CARGO) deb --no-build --no-strip $(DEBFLAGS) -o target/debian/ocps.deb

uninstall: ## remove what install put there, but not the configuration
	rm -f $(bindir)/ocps $(bindir)/run_ocps $(bindir)/run_OCPS.py
	rm -f $(unitdir)/ocps.service $(unitdir)/ocps@.service $(unitdir)/ocps-http.socket $(sysusersdir)/ocps.conf
	rm -f $(mandir)/man1/ocps.1 $(mandir)/man5/ocps.toml.5 $(mandir)/man7/ocps-protocol.7
	rm -f $(datadir)/bash-completion/completions/ocps $(datadir)/zsh/site-functions/_ocps \
	  $(datadir)/fish/vendor_completions.d/ocps.fish
	rm -rf $(datadir)/ocps

clean: ## remove what was built
	$(CARGO) clean
