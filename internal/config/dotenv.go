package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/joho/godotenv"
)

// maxDotenv is the most bytes that a .env file can have.
const maxDotenv = 1 << 20

// loadDotenv sets the variables of a .env file that the environment does not set. A missing file
// is not an error. No error shows any content of the file, because it may contain a password.
//
// godotenv reads the file, but it is too lenient: it expands unknown variables to nothing, cuts
// values off at a #, and quotes the rest of the file in its errors. So the file is first checked
// against a stricter grammar, in which a value means exactly what is written.
func loadDotenv(file string) error {
	text, err := readDotenv(file)
	if err != nil {
		return err
	}
	d := newDotenv(file, text)
	if err := d.check(); err != nil {
		return err
	}
	values, err := godotenv.Unmarshal(text)
	if err != nil || !maps.Equal(values, d.values) {
		return fmt.Errorf("%s: has a value that can be read in two ways: put single quotes around every value", file)
	}
	for name, value := range values {
		if _, set := os.LookupEnv(name); set {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%s:%d: set the variable: %w", file, d.lines[name], err)
		}
	}
	return nil
}

// readDotenv returns the text of file, with line feeds at the ends of its
// lines and without a byte-order mark, or "" if there is no such file.
func readDotenv(file string) (string, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(file); err == nil {
			return "", fmt.Errorf("%s: is a link to a file that does not exist: remove the link or create the file", file)
		}
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%w: make the file readable for this user, or remove it", err)
	}
	if !info.Mode().IsRegular() { // a pipe could block, a device never end
		return "", fmt.Errorf("%s: is a directory, a pipe or a device: must be a regular file", file)
	}
	if info.Size() > maxDotenv {
		return "", fmt.Errorf("%s: has %d bytes: must have at most %d", file, info.Size(), maxDotenv)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%w: make the file readable for this user, or remove it", err)
	}
	return strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n"), nil
}

// dotenv is a .env file being checked.
type dotenv struct {
	file   string
	rest   string // what has not been checked yet
	line   int    // number of the line that rest begins in
	values map[string]string
	lines  map[string]int // where each variable is set
}

func newDotenv(file, text string) *dotenv {
	return &dotenv{file: file, rest: text, line: 1, values: map[string]string{}, lines: map[string]int{}}
}

func (d *dotenv) fail(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", d.file, line, fmt.Sprintf(format, args...))
}

// advance moves rest forward by n bytes.
func (d *dotenv) advance(n int) {
	d.line += strings.Count(d.rest[:n], "\n")
	d.rest = d.rest[n:]
}

const blanks = " \t"

var (
	// A colon needs a blank after it, as in YAML: a URL's does not make a name.
	assignment = regexp.MustCompile(`^(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*(?:=|:[ \t]|:$)`)
	// The lines of a key in base64 may end in =, but have nothing after it.
	swallowed = regexp.MustCompile(`\n[ \t]*(?:export[ \t]+)?[A-Z_][A-Z0-9_]*=[^=\n]`)
)

// check reads the variables of the file into values.
func (d *dotenv) check() error {
	if err := d.checkCharacters(); err != nil {
		return err
	}
	for d.rest != "" {
		line, _, _ := strings.Cut(d.rest, "\n")
		statement := strings.TrimLeft(line, blanks)
		if statement == "" || statement[0] == '#' {
			d.advance(min(len(line)+1, len(d.rest)))
			continue
		}
		match := assignment.FindStringSubmatch(statement)
		if match == nil || match[1] == "export" {
			return d.fail(d.line, "is not a variable: "+
				"expected NAME=value with a name of letters, digits and _, or # before a comment")
		}
		name := match[1]
		if before, twice := d.lines[name]; twice {
			return d.fail(d.line, "sets the same variable as line %d: remove one of them", before)
		}
		d.lines[name] = d.line
		value := strings.TrimLeft(statement[len(match[0]):], blanks)
		d.advance(len(line) - len(value))
		var err error
		if value != "" && (value[0] == '\'' || value[0] == '"') {
			d.values[name], err = d.quoted(value[0])
		} else {
			d.advance(len(value))
			d.values[name], err = d.unquoted(strings.TrimRight(value, blanks))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCharacters checks that the file is text.
func (d *dotenv) checkCharacters() error {
	line := 1
	for i, char := range d.rest {
		switch {
		case char == utf8.RuneError && !strings.HasPrefix(d.rest[i:], "\ufffd"):
			return d.fail(line, "is not UTF-8 text: save the file as UTF-8")
		case char == 0:
			return d.fail(line, "has a NUL byte, as in UTF-16: save the file as UTF-8")
		case char == '\r':
			return d.fail(line, "has a carriage return without a line feed: save the file with LF or CRLF line ends")
		case char == '\n':
			line++
		case char != '\t' && unicode.IsControl(char):
			return d.fail(line, "has the control character %U: remove it", char)
		}
	}
	return nil
}

// unquoted returns what a value without quotes stands for.
func (d *dotenv) unquoted(raw string) (string, error) {
	for i, char := range raw {
		switch {
		case char == '#' && (i == 0 || strings.ContainsRune(blanks, rune(raw[i-1]))):
			return "", d.fail(d.line, "has # after a blank, where a comment would begin: "+
				"write NAME='value' if # belongs to the value, or move the comment to a line above")
		case unicode.IsSpace(char) && !strings.ContainsRune(blanks, char):
			return "", d.fail(d.line, "has the blank %U in a value: "+
				"write NAME='value' if it belongs to the value, or remove it", char)
		}
	}
	return d.expand(d.line, raw, false)
}

// quoted returns the value in quotes at the beginning of rest, and removes its last line from
// rest.
func (d *dotenv) quoted(quote byte) (string, error) {
	begin, end := d.line, 1
	for end < len(d.rest) && d.rest[end] != quote {
		if d.rest[end] == '\\' {
			if quote == '\'' && strings.HasPrefix(d.rest[end+1:], "'") {
				return "", d.fail(begin, "has a backslash before a single quote: "+
					"write the value without quotes or in double quotes")
			}
			if quote == '"' {
				end++ // what follows is escaped
			}
		}
		end++
	}
	if end >= len(d.rest) {
		return "", d.fail(begin, "has a quote that is never closed: expected %c at the end of the value", quote)
	}
	raw := d.rest[1:end]
	if at := swallowed.FindStringIndex(d.rest[1 : end+1]); at != nil {
		return "", d.fail(begin, "has a quote that is still open in line %d, where another variable seems to begin: "+
			`close it, or write the line ends of the value as \n in double quotes`,
			begin+1+strings.Count(raw[:at[0]], "\n"))
	}
	d.advance(end + 1)
	after, _, _ := strings.Cut(d.rest, "\n")
	if text := strings.TrimLeft(after, blanks); text != "" && text[0] != '#' {
		return "", d.fail(d.line, "has text after the closing quote of the value that begins in line %d: "+
			"expected the end of the line or a comment", begin)
	}
	d.advance(len(after))
	if quote == '\'' {
		return raw, nil
	}
	return d.expand(begin, raw, true)
}

var reference = regexp.MustCompile(`^\$(?:([A-Z0-9_]+)|\{([A-Z0-9_]+)\})`)

// expand replaces the escapes and variables in the raw text of a value that begins on the given
// line. Outside double quotes the only escape is \$.
func (d *dotenv) expand(line int, raw string, doubleQuotes bool) (string, error) {
	var value strings.Builder
	for raw != "" {
		n := 1
		switch next := raw[1:]; {
		case raw[0] == '\\' && strings.HasPrefix(next, "$"):
			value.WriteByte('$')
			n = 2
		case raw[0] == '\\' && doubleQuotes:
			escape, err := d.escape(line, next)
			if err != nil {
				return "", err
			}
			value.WriteByte(escape)
			n = 2
		case raw[0] == '$':
			text, length, err := d.dereference(line, raw)
			if err != nil {
				return "", err
			}
			value.WriteString(text)
			n = length
		default:
			value.WriteByte(raw[0])
		}
		raw = raw[n:]
	}
	return value.String(), nil
}

// escape returns the character for an escape sequence; next is the text after the backslash.
func (d *dotenv) escape(line int, next string) (byte, error) {
	switch char, after := next[0], next[1:]; {
	case char == 'n':
		return '\n', nil
	case char == 'r':
		return '\r', nil
	case char == '"' && after != "", char == '\\' && after != "" && after[0] != '$':
		return char, nil // godotenv confuses these at the end of a value, and \\$
	}
	return 0, d.fail(line, `has a backslash in double quotes that does not belong to \n, \r, \", \\ or \$ `+
		"inside the value: write NAME='value' to keep the text as it is")
}

// dereference returns the value of the variable that raw begins with, and its length in raw. A $
// that begins no variable stands for itself.
func (d *dotenv) dereference(line int, raw string) (text string, length int, err error) {
	next := raw[1:]
	match := reference.FindStringSubmatch(raw)
	if match == nil {
		if next != "" && (next[0] == '{' || next[0] == '(' || next[0] == '_' || isAlphanumeric(next[0])) {
			return "", 0, d.fail(line, "has $ before something that is not a variable in capital letters: "+keepDollar)
		}
		return "$", 1, nil
	}
	after := raw[len(match[0]):]
	if match[1] != "" && after != "" && (after[0] == '}' || isAlphanumeric(after[0])) {
		return "", 0, d.fail(line, "has a variable after $ whose name does not end clearly: "+
			"write it as ${NAME}, or "+keepDollar)
	}
	value, set := d.values[match[1]+match[2]]
	if !set {
		return "", 0, d.fail(line, "has a variable after $ that no line above sets: "+keepDollar)
	}
	return value, len(match[0]), nil
}

const keepDollar = "write NAME='value' in single quotes to keep $ as it is"

func isAlphanumeric(char byte) bool {
	return '0' <= char && char <= '9' || 'a' <= char && char <= 'z' || 'A' <= char && char <= 'Z'
}
