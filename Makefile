# Root and Linux are needed for demo, test and bench: they start containers.
# Everything is built or fetched into bin/ and .cache/; `make clean` removes both.
.PHONY: build image demo test bench lint tools clean

build: ## the binary, bin/cosentry
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/cosentry ./agent

image: ## the container image for amd64 and arm64, an OCI layout in bin/image
	go run ./deploy/image

demo: build ## what runs and what is refused, on a real containerd
	integration/tools/setup.sh
	cd integration && go build -o ../bin/demo ./demo
	bin/demo

test: build tools ## every test: unit with the race detector, fuzz seeds, end to end
	go test -race ./...
	cd integration && go test -count=1 -timeout 20m ./...

bench: build tools ## the figures of docs/performance.md
	go test -run '^$$' -bench . -benchmem ./...
	cd integration && go test -count=1 -run '^$$' -bench . -benchmem ./...

lint: ## what .ci/run asks of the source
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "gofmt -w $$files"; exit 1; }
	go vet ./... && go tool staticcheck ./...
	cd integration && go vet ./... && go tool staticcheck ./...

tools: ## what the tests run: containerd, runc, CNI plugins, busybox, cosign
	integration/tools/setup.sh test

clean:
	rm -rf bin .cache
