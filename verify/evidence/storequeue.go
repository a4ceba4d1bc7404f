package evidence

import "slices"

const (
	// maxWaiting and maxWaitingBytes bound what waits in memory for a disk, in entries and in bytes of their material: the
	// decisions of a busy minute, and room for one of the largest beside another that is being written.
	maxWaiting      = 64
	maxWaitingBytes = 2 * maxKeptAttested
)

// queue is what waits to be written, the oldest first.
type queue struct {
	names []string // of those that wait
	// waiting has them, and the one that is being written.
	waiting map[string]*Evidence
	bytes   int
	name    string // of the one that is being written
	writing *Evidence
}

// put says whether e has, or had, a place. It takes that of an older answer to the same question.
func (q *queue) put(e *Evidence) bool {
	name := entryName(e.question())
	old := q.waiting[name]
	if old == e {
		return true
	}
	bytes, waits := q.bytes+e.Size(), old != nil && old != q.writing
	if waits {
		bytes -= old.Size()
	}
	if bytes > maxWaitingBytes || !waits && len(q.names) >= maxWaiting {
		return false
	}
	if !waits {
		q.names = append(q.names, name)
	}
	q.waiting[name], q.bytes = e, bytes
	return true
}

// take gives what is to be written next, or nil. It is there until written is called.
func (q *queue) take() *Evidence {
	if len(q.names) == 0 {
		return nil
	}
	q.name = q.names[0]
	q.names = slices.Delete(q.names, 0, 1)
	q.writing = q.waiting[q.name]
	return q.writing
}

// written ends what take began, and says whether nothing is left.
func (q *queue) written() bool {
	q.bytes -= q.writing.Size()
	if q.waiting[q.name] == q.writing {
		delete(q.waiting, q.name)
	}
	q.name, q.writing = "", nil
	return len(q.names) == 0
}

// discard forgets all that waits. Nothing is being written.
func (q *queue) discard() {
	q.names, q.bytes = nil, 0
	clear(q.waiting)
}
