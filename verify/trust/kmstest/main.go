package kmstest

import (
	"log"
	"os"
	"testing"
)

// Main runs a package's tests with the services started and the environment leading to them, and gives the exit
// status. It is for TestMain: Go reads proxies and CAs from the environment once in the life of a process.
func Main(m *testing.M, into **Services) int {
	dir, err := os.MkdirTemp("", "kmstest")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	services, err := Start(dir)
	if err != nil {
		log.Print(err)
		return 1
	}
	defer services.Close()
	for name, value := range services.Env() {
		if err := os.Setenv(name, value); err != nil {
			log.Print(err)
			return 1
		}
	}
	*into = services
	return m.Run()
}
