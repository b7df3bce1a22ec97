# Everything here works on a fresh Debian machine with Rust; docs/testing.md says more.

.PHONY: build test lint demo bench bench-images clients fuzz

build:
	.ci/install-packages libseccomp-dev
	cargo build --release --locked

# Units, integration tests against real SSH servers and engines (Docker, Podman), and the lints.
test:
	tests/run

lint:
	.ci/install-packages libseccomp-dev
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# PORT is where the demonstration listens.
PORT ?= 2222
demo:
	.ci/install-packages $$(cat src/demo/packages)
	cargo build --release --locked
	@exec cargo run --release --locked --quiet -- demo --port $(PORT)

# Ratios against OpenSSH; docs/performance.md. GROUPS: setup echo bulk files persist sessions
# connections; EFFORT: --quick or --full.
GROUPS ?=
EFFORT ?=
bench:
	.ci/install-packages libseccomp-dev openssh-client openssh-server openssh-sftp-server rsync
	cargo bench --locked --bench gateway -- $(EFFORT) $(GROUPS)

# Containers on the embedded engine and on Docker: tests/run starts one where none answers.
bench-images:
	WALTGATE_BENCH=images tests/run

# Writes what passes with other people's programs into docs/clients.md.
clients:
	WALTGATE_WRITE_CLIENTS=1 tests/run --test clients

# Each fuzz target for FUZZ_SECONDS. Needs nightly Rust and cargo-fuzz.
FUZZ_SECONDS ?= 60
fuzz:
	@set -e; for target in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run "$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done
