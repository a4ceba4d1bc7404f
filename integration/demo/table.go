package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// table prints rows as they come, each cell wrapped and nothing cut away.
type table struct {
	out     io.Writer
	colour  bool
	columns []column
}

type column struct {
	title string
	width int
}

// newTable fits the table to the terminal; a pipe gets 120 columns.
func newTable(out *os.File) *table {
	width, terminal := terminalWidth(out)
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && !terminal {
		width = n
	}
	width = min(max(width, 90), 160)
	const tried, took, gaps = 27, 7, 3 * 2
	happened := (width - tried - took - gaps) * 2 / 5
	words := width - tried - took - gaps - happened
	return &table{out: out, colour: terminal && os.Getenv("NO_COLOR") == "", columns: []column{
		{"what was tried", tried}, {"what happened", happened}, {"what the pod's owner reads", words}, {"time", took},
	}}
}

func terminalWidth(f *os.File) (int, bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 120, false
	}
	return int(size.Col), true
}

func (t *table) header() {
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	t.print(titles, "1")
	t.rule()
}

func (t *table) rule() {
	total := 2 * (len(t.columns) - 1)
	for _, c := range t.columns {
		total += c.width
	}
	fmt.Fprintln(t.out, strings.Repeat("-", total))
}

func (t *table) row(r result) {
	style, mark := "32", ""
	if r.problem != "" {
		style, mark = "31", "NOT AS EXPECTED, "+r.problem+": "
	}
	words := r.words
	if words == "" {
		words = "-"
	}
	t.print([]string{r.tried, mark + r.happened, words, milliseconds(r.took)}, style)
	t.rule()
}

// print prints one row; style is for its second cell, or for all in a header.
func (t *table) print(cells []string, style string) {
	wrapped := make([][]string, len(cells))
	height := 0
	for i, cell := range cells {
		wrapped[i] = wrap(cell, t.columns[i].width)
		height = max(height, len(wrapped[i]))
	}
	for line := range height {
		var b strings.Builder
		for i := range cells {
			text := ""
			if line < len(wrapped[i]) {
				text = wrapped[i][line]
			}
			padding := strings.Repeat(" ", t.columns[i].width-utf8.RuneCountInString(text)+2)
			if t.colour && text != "" && (i == 1 || style == "1") {
				text = "\x1b[" + style + "m" + text + "\x1b[0m"
			}
			b.WriteString(text + padding)
		}
		fmt.Fprintln(t.out, strings.TrimRight(b.String(), " "))
	}
}

// wrap breaks text at spaces into lines of at most width characters. A longer
// word, such as a digest, is broken where it must.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for {
			room := width - utf8.RuneCountInString(line)
			if line != "" {
				room--
			}
			runes := []rune(word)
			if len(runes) <= room {
				if line != "" {
					line += " "
				}
				line += word
				break
			}
			if line != "" {
				lines, line = append(lines, line), ""
				continue
			}
			lines, word = append(lines, string(runes[:width])), string(runes[width:])
		}
	}
	return append(lines, line)
}

func milliseconds(d time.Duration) string {
	switch ms := float64(d.Microseconds()) / 1000; {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}
