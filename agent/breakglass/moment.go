package breakglass

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Moment is a time as people tell it and as the kernel counts it.
type Moment struct {
	// Wall is the clock's. Root sets it, and so does whoever answers for the network's time.
	Wall time.Time
	// Boot tells this boot from all others: random/boot_id in proc_sys_kernel(5).
	Boot string
	// Up is the time since that boot, that of a suspended node included: CLOCK_BOOTTIME in clock_gettime(2).
	Up time.Duration
}

// Now is the moment that this node is at.
func Now() (Moment, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Moment{}, fmt.Errorf("finding out which boot this is: %w", err)
	}
	m := Moment{Wall: time.Now(), Boot: strings.TrimSpace(string(id))}
	if m.Boot == "" {
		return Moment{}, errors.New("finding out which boot this is: the kernel says nothing")
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return Moment{}, fmt.Errorf("finding out how long ago this boot was: %w", err)
	}
	m.Up = time.Duration(up.Nano())
	return m, nil
}
