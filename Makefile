# make demo   a volume that outlives its machine, in under a minute after the build
# make test   sets up what the tests need, then every test (PARTS="store fuse" runs some; tests/run.sh names them)
# make test-cluster  the Kubernetes driver on a real one-node cluster, built first (six minutes, once)
# make image  the container image and its bill of materials, in target/image
# make bench  ext4, a bare FUSE daemon, Holdfast and peers in one run: table and target/bench/result.json
# make soak   the tests with large counts
SCALE ?= 1
PARTS ?=

.PHONY: build keeper-static image demo test test-cluster bench soak

# The keeper lies beside `holdfast`; linked statically, it also runs where a container brings no C library.
build:
	cargo build --release --bin holdfast --bin holdfast-keeper
	$(MAKE) keeper-static

# `cargo rustc` alone can give a flag to one program of a package; a plain `cargo build` makes the same program, linked dynamically.
keeper-static:
	cargo rustc --release --bin holdfast-keeper -- -C target-feature=+crt-static

image: build
	deploy/image.py

demo: build
	PATH="$(CURDIR)/target/release:$$PATH" tests/demo.sh

test:
	SCALE=$(SCALE) tests/run.sh $(PARTS)

test-cluster:
	cargo build --bins
	tests/cluster/run.sh

bench:
	tests/setup.sh --peers
	cargo build --release --bin holdfast --example bare
	SCALE=$(SCALE) cargo bench --bench speed

soak:
	$(MAKE) test SCALE=20
