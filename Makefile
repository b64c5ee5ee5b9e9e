# Holdfast. `make help` lists the targets.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# grpcnotrace leaves out a debugging page that nobody serves, and with it a
# fifth of the binary and 2 MiB of resident memory.
TAGS := grpcnotrace
LDFLAGS := -s -w -X github.com/holdfast-csi/holdfast/internal/app.Version=$(VERSION)
# Kernel series that the machine tests run on.
KERNELS ?= 6.12 6.1
FUZZTIME ?= 30s
FAULTS ?= 300
MOVES ?= 50
AWAY ?= 10m
# 0 chooses one, and prints it.
SEED ?= 0
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
HELM := helm.sh/helm/v3/cmd/helm@v3.21.4
PROTOC_GEN_GO := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
PROTOC_GEN_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
# Packages with tests that need a kernel with NVMe/TCP target and host.
KERNEL_PACKAGES := $(shell grep -rl --include='*_kernel_test.go' '^package' internal 2>/dev/null | xargs -r -n1 dirname | sort -u | sed 's,^,./,')

.PHONY: help build image manifests packages e2e-k8s e2e-storage k8s-long k8s-scale k8s-bin demo test rest unit modules kernel e2e e2e-first e2e-others long torture moves lint fmt generate bench fuzz deps clean
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: ## compile bin build/bin/holdfast
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o build/bin/holdfast ./cmd/holdfast

image: ## the container image for amd64 and arm64, without a daemon, in build/image; PUSH=REGISTRY/NAME:TAG pushes it
	$(GO) -C hack/image run . --version $(VERSION) $(if $(PUSH),--tag $(PUSH) --push $(PUSH))

# What an editor of plain manifests wants; VALUES as holdfast target init writes them.
manifests: ## the chart as plain manifests, in build/manifests: VALUES=FILE
	@test -n "$(VALUES)" || { echo "VALUES: want the values.yaml that holdfast target init wrote" >&2; exit 1; }
	mkdir -p build/manifests
	$(GO) run $(HELM) template holdfast deploy/chart/holdfast --namespace holdfast -f $(VALUES) >build/manifests/holdfast.yaml

packages: ## Debian package and archive for storage hosts, in build/packages
	./hack/package $(VERSION) build/packages

deps: ## install what machines and tests need, by the system's package manager
	./hack/install-deps

demo: deps ## boot two machines and see volumes survive outages
	$(GO) run ./test/cmd/demo

test: deps ## everything that proves the code: unit, csi-sanity, fuzz seeds, real kernels
	$(MAKE) --no-print-directory unit modules kernel
	$(MAKE) --no-print-directory -j2 e2e-first rest

# The second lane of test: machines wait more than they compute.
rest: e2e-others
	$(MAKE) --no-print-directory torture FAULTS=25 SEED=2

unit: ## tests that need no kernel: vet, unit, csi-sanity, fuzz seeds, with the race detector
	$(GO) vet ./... && $(GO) vet -tags 'vm long' ./test/... && $(GO) vet -tags 'k8s long' ./test/kube/... && $(GO) vet -tags kernel ./internal/...
	$(GO) test -race ./...

modules: ## tests of the modules beside the product's: the Helm chart, the builder of the image
	cd test/k8s && $(GO) vet ./... && $(GO) test -count=1 ./...
	cd hack/image && $(GO) vet ./... && $(GO) test ./...

kernel: deps ## tests of single packages inside a machine, on every kernel of KERNELS
	$(GO) run ./test/vm/cmd/vmrun -kernel $(shell echo $(KERNELS) | tr ' ' ,) -packages "$(KERNEL_PACKAGES)"

e2e: deps ## tests of the whole product in machines, on every kernel of KERNELS
	$(MAKE) --no-print-directory -j2 e2e-first e2e-others

E2E = $(GO) test -tags vm -count=1 -timeout 60m ./test/e2e/
e2e-first: deps # all tests, on the first kernel
	@echo "== end to end on Linux $(firstword $(KERNELS))"
	@set -o pipefail; HOLDFAST_KERNEL=$(firstword $(KERNELS)) $(E2E) 2>&1 | sed -u "s/^/$(firstword $(KERNELS)): /"

e2e-others: deps # those that depend on the kernel, on the others
	@set -o pipefail; for k in $(wordlist 2,$(words $(KERNELS)),$(KERNELS)); do \
	  echo "== end to end on Linux $$k, tests that depend on the kernel"; \
	  HOLDFAST_KERNEL=$$k HOLDFAST_KERNEL_TESTS_ONLY=1 $(E2E) 2>&1 | sed -u "s/^/$$k: /" || exit 1; \
	done

K8S_DEPS := libseccomp-dev pkg-config
k8s-bin: # programs of a cluster, kept by content: some 20 minutes the first time
	./hack/install-deps $(K8S_DEPS)
	$(GO) run ./test/cmd/kubeshell -build-only

e2e-k8s: k8s-bin ## Holdfast in a Kubernetes of virtual machines, installed as the README says: short form
	$(GO) test -tags k8s -count=1 -timeout 70m -v ./test/kube/

# What all specs of the Kubernetes project's tests of storage belong to: how their names begin. Two pieces run at a time.
PIECES ?= volumes,provisioning,subPath,multiVolume should access to two volumes with the same,multiVolume should access to two volumes with different,multiVolume should concurrently,fsgroupchangepolicy,ephemeral,volumeMode,volumeLimits,read-write-once-pod,volumeIO
e2e-storage: k8s-bin ## the Kubernetes project's own tests of storage, in PIECES; what has passed (build/e2e-storage) is not run again
	mkdir -p build/e2e-storage
	$(GO) test -tags k8s -count=1 -timeout 240m -v -run TestCluster/external-storage ./test/kube/ -pieces "$(PIECES)" -reports $(CURDIR)/build/e2e-storage

DEATHS ?= 10
k8s-long: k8s-bin ## a database under misfortunes, 100 volumes at once, a node that dies DEATHS times, in a Kubernetes of virtual machines
	$(GO) test -tags 'k8s long' -count=1 -timeout 120m -v -run 'TestDatabase|TestCluster/^node-death$$' ./test/kube/ -deaths $(DEATHS)
	$(GO) test -tags 'k8s long' -count=1 -timeout 120m -v -run TestStorm ./test/kube/ -patience 15m

NODES ?= 1000
VOLUMES ?= 5000
k8s-scale: k8s-bin ## the controller with NODES simulated nodes and VOLUMES volumes: memory, latency, nothing left
	$(GO) test -tags 'k8s long' -count=1 -timeout 120m -v -run TestScale ./test/kube/scale/ -nodes $(NODES) -volumes $(VOLUMES)

long: deps ## fifty sessions at once, a black hole beside, memory full, the plugin away for AWAY
	HOLDFAST_KERNEL=$(firstword $(KERNEL) $(KERNELS)) $(GO) test -tags 'vm long' -count=1 -timeout 60m -v -run 'TestFiftySessions|TestBlackHoleBeside|TestHealWithoutMemory|TestPluginAway' ./test/e2e/ -away $(AWAY)

torture: deps ## a campaign of faults under writers that check: FAULTS=n SEED=n KERNEL=6.12 MULTIPATH=on|off
	$(GO) run ./test/cmd/torture -faults $(FAULTS) -seed $(SEED) -kernel $(firstword $(KERNEL) $(KERNELS)) $(if $(filter off,$(MULTIPATH)),-no-multipath)

bench: ## stage and publish against the bare sequence of a shell, as ratios
	./hack/install-deps fio
	$(GO) run ./test/cmd/bench

moves: deps ## take a volume from a node that is cut off and give it to another, MOVES times
	$(GO) run ./test/cmd/torture -moves $(MOVES) -kernel $(firstword $(KERNEL) $(KERNELS))

fuzz: ## every fuzz target for FUZZTIME
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r d; do \
	  for f in $$(grep -h -o '^func Fuzz[A-Za-z0-9_]*' $$d/*_test.go | sed 's/func //'); do \
	    echo "== $$d $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$d || exit 1; done; done

lint: ## golangci-lint, the version pinned here
	$(GO) run $(GOLANGCI) run ./...

fmt: ## gofmt
	gofmt -w $$(git ls-files '*.go')

generate: ## regenerate the gRPC contract (needs protoc)
	GOBIN=$(CURDIR)/build/tools $(GO) install $(PROTOC_GEN_GO)
	GOBIN=$(CURDIR)/build/tools $(GO) install $(PROTOC_GEN_GRPC)
	PATH=$(CURDIR)/build/tools:$$PATH $(GO) generate ./internal/agent/agentpb

clean: ## remove build/ but for downloaded kernels
	find build -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
