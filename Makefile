# Everything here works on a fresh Debian machine with Rust; docs/testing.md says more.

.PHONY: build test lint demo fuzz

build:
	cargo build --release --locked

# Units, integration tests against real SSH servers and a real Docker engine, and the lints.
test:
	tests/run

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# PORT is where the demonstration listens.
PORT ?= 2222
demo:
	.ci/install-packages $$(cat src/demo/packages)
	cargo build --release --locked
	@exec target/release/waltgate demo --port $(PORT)

# Each fuzz target for FUZZ_SECONDS. Needs nightly Rust and cargo-fuzz.
FUZZ_SECONDS ?= 60
fuzz:
	@set -e; for target in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run "$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done
