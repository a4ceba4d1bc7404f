package evidence

import (
	"net/http"
	"time"
)

// observer is Options.Observe.
type observer = func(host, operation string, code int, d time.Duration, err error)

// bounded gives next no codes but those of knownCode.
func bounded(next observer) observer {
	return func(host, operation string, code int, d time.Duration, err error) {
		next(host, operation, knownCode(code), d, err)
	}
}

// otherSuccess stands for a 2xx that is not 200: no success for us, so it must not be counted as one.
const otherSuccess = 299

// otherCode stands for what is no HTTP status code.
const otherCode = 999

// knownCode is the code itself where something is done about it, and else the code of its class. A code is a
// registry's word, and becomes the label of a metric: with any of a thousand it could fill the memory of whoever
// keeps the series.
func knownCode(code int) int {
	switch code {
	case 0, http.StatusOK,
		http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusNotAcceptable, http.StatusTooManyRequests,
		http.StatusNotImplemented, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return code
	}
	switch class := code / 100; class {
	case 2:
		return otherSuccess
	case 1, 3, 4, 5:
		return class * 100
	}
	return otherCode
}
