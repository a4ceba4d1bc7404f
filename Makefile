# Root and Linux are needed for demo, test and bench: they start containers.
# Everything is built or fetched into bin/ and .cache/; `make clean` removes both.
.PHONY: build image demo test test-all bench lint tools tools-all clean

build: ## the binary, bin/cosentry
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/cosentry ./agent

image: ## the container image for amd64 and arm64, an OCI layout in bin/image
	go run ./deploy/image

demo: build ## what runs and what is refused, on a real containerd
	integration/tools/setup.sh
	go run ./deploy/image -program bin/cosentry -out bin/demo-image
	cd integration && go build -o ../bin/demo ./demo
	bin/demo

test: build tools ## the fast tests: unit with the race detector, fuzz seeds, end to end on containerd
	go test -race ./...
	cd integration && go test -count=1 -timeout 20m $$(go list ./... | grep -v -E '/(node|cluster|deploy|monitoring)$$')

test-all: build image tools-all ## every test: also on whole nodes with systemd and kubelet, in a cluster, and what they show to Prometheus
	go test -race ./...
	cd integration && go test -p 1 -count=1 -timeout 40m ./... # whole nodes: one at a time

bench: build tools ## the figures of docs/performance.md
	go test -run '^$$' -bench . -benchmem ./...
	cd integration && go test -count=1 -run '^$$' -bench . -benchmem ./...

lint: ## what .ci/run asks of the source
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "gofmt -w $$files"; exit 1; }
	go vet ./... && go tool staticcheck ./...
	cd integration && go vet ./... && go tool staticcheck ./...

tools: ## what the tests run: containerd, runc, CNI plugins, busybox, cosign
	integration/tools/setup.sh test

tools-all: ## what test-all runs: also Kubernetes of two versions, etcd, systemd
	integration/tools/setup.sh all

clean:
	rm -rf bin .cache
