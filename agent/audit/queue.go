package audit

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// queueBytes bounds the queue's text beside its length: records of 64 KiB each
// would otherwise make 1024 of them 64 MiB.
const queueBytes = 8 << 20

// queue holds, in order, what is not written yet: records whose Append waits, as
// many as there are callers, and up to limit of those whose Append does not wait any
// more. It is not safe for concurrent use.
type queue struct {
	limit    int
	required bool // nothing is kept that nobody waits for
	items    []item
	busy     bool // the first item is being written
	kept     int  // items that nobody waits for
	bytes    int  // of their bodies
}

// item is a record's body, or, if lost is not 0, a place where so many records
// are missing.
type item struct {
	body        []byte
	done        chan error // who waits for it; nil: nobody
	at          time.Time  // since when, or since when it is being written
	refused     bool       // nobody waits because records are required
	lost        int
	since, till time.Time // of lost
}

func (q *queue) push(i item) { q.items = append(q.items, i) }

// oldest is since when the disk has owed an answer: for a record that is
// waited for, or for the one that is being written.
func (q *queue) oldest() (time.Time, bool) {
	for n, i := range q.items {
		if i.done != nil || (n == 0 && q.busy) {
			return i.at, true
		}
	}
	return time.Time{}, false
}

// take gives the first item, which stays until pop or untake.
func (q *queue) take() item {
	q.busy = true
	if q.items[0].done == nil {
		q.items[0].at = time.Now()
	}
	return q.items[0]
}

func (q *queue) pop() item {
	i := q.items[0]
	if i.done == nil {
		q.kept--
		q.bytes -= len(i.body)
	}
	q.items = slices.Delete(q.items, 0, 1)
	q.busy = false
	return i
}

// untake says that the item taken was not written. It stays the first, unless its
// call was refused meanwhile: that it is lost is only certain now.
func (q *queue) untake() (lost int) {
	if q.busy && q.items[0].refused {
		q.pop()
		q.items = slices.Insert(q.items, 0, newLoss())
		q.kept++
		lost = 1
	}
	q.busy = false
	return lost
}

// release ends all waiting, and gives who waited. What there is no room for is
// counted as lost at its place. The newest is given up rather than the oldest: how
// trouble began is worth more than how it went on.
func (q *queue) release() (waiting []chan error, lost int) {
	items := q.items
	q.items = q.items[:0]
	for n, i := range items {
		if i.done == nil {
			q.items = append(q.items, i)
			continue
		}
		waiting = append(waiting, i.done)
		i.done = nil
		switch {
		case n == 0 && q.busy: // it may yet be written
			i.refused = q.required
			q.keep(i)
		case !q.required && q.kept < q.limit && q.bytes+len(i.body) <= queueBytes:
			q.keep(i)
		default:
			lost++
			q.lose()
		}
	}
	clear(items[len(q.items):])
	return waiting, lost
}

func (q *queue) keep(i item) {
	i.body = bytes.Clone(i.body) // of a buffer that is larger
	q.items = append(q.items, i)
	q.kept++
	q.bytes += len(i.body)
}

// lose counts a lost record at the end of the queue.
func (q *queue) lose() {
	n := len(q.items)
	if n == 0 || q.items[n-1].lost == 0 || (n == 1 && q.busy) {
		q.items = append(q.items, newLoss())
		q.kept++
		return
	}
	q.items[n-1].lost++
	q.items[n-1].till = time.Now()
}

func newLoss() item {
	now := time.Now()
	return item{lost: 1, since: now, till: now}
}

// records counts those that nobody waits for.
func (q *queue) records() int {
	n := 0
	for _, i := range q.items {
		if i.done == nil && i.lost == 0 {
			n++
		}
	}
	return n
}

// marked counts the lost records that the log does not tell of yet.
func (q *queue) marked() int {
	n := 0
	for _, i := range q.items {
		n += i.lost
	}
	return n
}

// marker is the record that stands for the missing ones.
func (i item) marker(required bool) Record {
	why := "did not fit into the queue"
	if required {
		why = "their calls were answered so, because records are required"
	}
	return Record{
		Time: i.till, Action: ActionAudit, Decision: DecisionError, Lost: uint64(i.lost),
		Reason: fmt.Sprintf("%d records could not be written and %s, from %s to %s",
			i.lost, why, i.since.UTC().Format(time.RFC3339Nano), i.till.UTC().Format(time.RFC3339Nano)),
	}
}
