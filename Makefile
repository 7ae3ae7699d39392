# The commands that always hold, on a fresh Debian or Ubuntu, as root. `make setup` installs what is missing by name.

CARGO ?= cargo
BIN   := $(or $(CARGO_TARGET_DIR),target)/debug
FAST  := $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: setup build demo test bench deb lint doc clean

setup:
	@tools/setup

build: setup
	$(CARGO) build --locked --workspace --bins

# KEEP=1 leaves the cluster up and prints how to talk to it.
demo: build
	$(BIN)/testbed demo $(if $(KEEP),--keep)

test: build
	$(CARGO) nextest run --locked --workspace

bench: setup
	$(CARGO) build --locked --release --bins
	$(FAST)/testbed bench

# A Debian package of the release build, checked: dist/sidekick_VERSION_ARCHITECTURE.deb.
deb: setup
	$(CARGO) build --locked --release --bins
	packaging/check-deb "$$(packaging/deb $(FAST) dist)"

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

clean:
	$(CARGO) clean
