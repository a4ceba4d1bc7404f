package audit

import (
	"fmt"
	"time"
)

// queueBytes bounds the queue's text beside its length: records of 64 KiB each
// would otherwise make 1024 of them 64 MiB.
const queueBytes = 8 << 20

// queue holds, in order, what could not be written. It is not safe for
// concurrent use.
type queue struct {
	limit int // items
	items []item
	bytes int
}

// item is a record's body, or, if lost is not 0, a place where so many records
// are missing.
type item struct {
	body        []byte
	lost        uint64
	since, till time.Time // of lost
}

// push takes a copy of body. When the queue is full it counts the record as
// lost at this place and gives false. The newest is given up
// rather than the oldest: how trouble began is worth more than how it went on.
func (q *queue) push(body []byte) bool {
	if len(q.items) < q.limit && q.bytes+len(body) <= queueBytes {
		q.items = append(q.items, item{body: append([]byte(nil), body...)})
		q.bytes += len(body)
		return true
	}
	now := time.Now()
	if n := len(q.items); n == 0 || q.items[n-1].lost == 0 {
		q.items = append(q.items, item{since: now})
	}
	last := &q.items[len(q.items)-1]
	last.lost++
	last.till = now
	return false
}

func (q *queue) pop() {
	q.bytes -= len(q.items[0].body)
	q.items[0] = item{}
	q.items = q.items[1:]
	if len(q.items) == 0 {
		q.items = nil
	}
}

// marker is the record that stands for the missing ones.
func (i item) marker() Record {
	return Record{
		Time: i.till, Action: ActionAudit, Decision: DecisionError, Lost: i.lost,
		Reason: fmt.Sprintf("%d records could not be written and did not fit into the queue, from %s to %s",
			i.lost, i.since.UTC().Format(time.RFC3339Nano), i.till.UTC().Format(time.RFC3339Nano)),
	}
}
