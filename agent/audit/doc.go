// Package audit keeps the record of what was decided: append-only JSON lines,
// one a decision, each bound to the one before it by SHA-256.
//
// # Promises
//
// When [Log.Append] returns nil, the record has been handed to the kernel by
// one write(2), or, if that failed and Options.Required is false, it went to
// the slog logger and to a bounded queue that is written, in order, before any
// later record. Nothing is dropped silently: when the queue is full, the new
// record is left out and a marker record in the same place says how many were;
// and so it is for every record that cannot be written with Options.Required,
// when Append returns an error instead.
// A write that ends half way is truncated off again. A process killed at any
// point leaves a log that [Open] continues.
//
// A disk that hangs holds nobody for longer than Options.WriteTimeout, and
// once it is known to hang, nobody at all: it is treated like a full one. A record
// whose write hangs may still reach the file when the disk answers again; if its call
// had been given an error, a notice after it says so. A log that cannot be
// opened (no such disk yet, a directory that others may write to, another process
// that holds it) is treated like a full disk too, and tried again every 10 seconds.
//
// There is no fsync per record. A killed process loses nothing; a power cut
// can lose the records of the last seconds (the kernel's write-back interval).
// Files are synced when they are rotated and at [Log.Close].
//
// # Refusals
//
// One process at a time holds a log: an flock on the directory, [ErrLocked] for
// the second, which waits for the first to end. A directory that others may write to is not used. Nothing
// but rotation removes a record, and rotation never overwrites a file.
//
// # Format
//
// The directory holds
//
//	audit.jsonl                   the file being written
//	audit-<first seq>.jsonl       rotated files, 16 digits, zero-padded: sorted by name is in order
//	torn-<last seq>-<n>.bin       what a crash left after the last whole line, set aside by Open
//
// A line is at most 64 KiB with its newline, printable ASCII only (everything
// else is \u-escaped inside JSON strings), and has exactly this shape:
//
//	{"seq":<n>,"prev":"<64 hex>",<the record's own members>,"hash":"<64 hex>"}
//
// seq counts from 1 without gaps, over all files. hash is the SHA-256 of the
// line's bytes before `,"hash":`, as they are on disk: nothing is decoded and
// encoded again, so there is no second reading of a line that a check could be
// fooled with. prev is the hash of the line before and is itself under hash; for
// seq 1 it is 64 zeros. Hex is lower case. Without this package a line is
// checked with
//
//	head -n 1 audit.jsonl | sed -E 's/,"hash":"[0-9a-f]{64}"\}$//' | tr -d '\n' | sha256sum
//
// The members are those of [Record] in snake_case; time is RFC 3339 in UTC,
// duration_us is in microseconds. In each of policies, key_fingerprint is that of the key that signed, and issuer and
// subject are the identity in the certificate of a keyless signature; what does not apply is left out, as it was by
// versions that did not know it, and what a newer version adds is passed over. Strings longer than 1 KiB are cut and say so; a
// record that would still be too long has its strings cut to 256 bytes and its
// list of policies shortened (policies_omitted says by how many). Records with
// action "start" say that the agent started, with its mode and version; those with "break-glass" that somebody had everything
// let through for a time, and that it ended. Neither has a decision or an image. Records with
// action "audit" are the log's own: records lost (lost says how many), a torn
// line set aside, the file altered while it was open.
//
// Rotation renames audit.jsonl after its first record's seq and goes on in a new
// audit.jsonl, whose first line carries the hash of the old file's last.
// A crash between the two leaves no audit.jsonl; Open makes one.
//
// # What the chain proves, and what not
//
// [VerifyDir] finds any record that was edited, removed from the middle,
// inserted or moved, and any file that is missing between two others. The chain
// has no secret in it, so whoever may write the files (root) can
// cut off the tail, or rewrite a record and every hash after it, and the
// result is consistent. Whoever removes the oldest files, or all of them, leaves what
// rotation might have left, but for the notice of an agent that runs. Against that only a [Head] noted elsewhere helps: give it to
// VerifyDir, and everything up to that record is proven unaltered. The files
// that rotation removed cannot be proven either; the report says where the
// proof begins.
package audit
