package trust

import "time"

// clock gives the time of day, and how long this machine has been at work since some moment: the one is put forward and
// back, by a person or by NTP, and the other stands still while a virtual machine is suspended. What expires does so by the
// time of day, and so that is what things are due by; the other only tells when it is not to be relied on.
type clock func() (day time.Time, worked time.Duration)

// systemClock gives times of day without Go's monotonic reading, which all arithmetic would prefer.
func systemClock() clock {
	began := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(began)
	}
}

// maxStep is by how much the two may come apart before that counts. NTP slews a clock by less in a day.
const maxStep = time.Minute

// steps notices that the time of day went another way than the work: the clock was put forward or back, or the machine
// slept. Many small steps count as one, because they are measured from the last that counted.
type steps struct {
	day    time.Time
	worked time.Duration
}

// step is how far the two have come apart, if that counts, and 0 otherwise.
func (s *steps) step(day time.Time, worked time.Duration) time.Duration {
	d := day.Sub(s.day) - (worked - s.worked)
	if d.Abs() <= maxStep {
		return 0
	}
	s.day, s.worked = day, worked
	return d
}
