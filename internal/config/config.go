// Package config reads a program's settings from environment variables. Each
// service declares its own in one typed struct; an invalid value stops the
// program with an error that names the variable, what was found and what is
// valid.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Set collects the variables that a program reads, and the errors in their
// values. Read every variable, then check Err.
type Set struct {
	lookup func(string) (string, bool)
	vars   []variable
	errs   []error
}

type variable struct{ name, fallback, usage string }

// New returns a Set over the process's environment. Variables that are not set
// there come from a .env file, if the service's own folder has one: the folder
// named service below the current one, or else the current one.
func New(service string) *Set {
	s := &Set{lookup: os.LookupEnv}
	file := ".env"
	if info, err := os.Stat(service); err == nil && info.IsDir() {
		file = filepath.Join(service, file)
	}
	if err := loadDotenv(file); err != nil {
		s.errs = append(s.errs, err)
	}
	return s
}

// Err returns all errors in the variables read so far, one per line.
func (s *Set) Err() error { return errors.Join(s.errs...) }

// Require records an error about a combination of variables unless ok.
func (s *Set) Require(ok bool, format string, args ...any) {
	if !ok {
		s.errs = append(s.errs, fmt.Errorf(format, args...))
	}
}

// Help writes the variables as a table: name, default, meaning.
func (s *Set) Help(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range s.vars {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", v.name, v.fallback, strings.ReplaceAll(v.usage, "`", ""))
	}
	table.Flush()
}

// Markdown returns the same table as docs/reference.md shows it.
func (s *Set) Markdown() string {
	var b strings.Builder
	for _, v := range s.vars {
		fallback := "none"
		if v.fallback != "" {
			fallback = "`" + v.fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.name, fallback, v.usage)
	}
	return b.String()
}

// read reads a variable of any kind. An empty value counts as unset, so that
// a line "NAME=" in a .env file means the default. An error shows the invalid
// value as show describes it.
func read[T any](s *Set, name, fallback, usage string, show func(string) string, parse func(string) (T, error)) T {
	s.vars = append(s.vars, variable{name, fallback, usage})
	text, _ := s.lookup(name)
	if text == "" {
		text = fallback
	}
	value, err := parse(text)
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("%s %s: must be %w", name, show(text), err))
	}
	return value
}

// harmless matches values that cannot be a password, a URL or a connection string.
var harmless = regexp.MustCompile(`^[A-Za-z0-9 .,:_+-]{1,40}$`)

// quoteHarmless describes a value that is short and simple.
func quoteHarmless(text string) string {
	if harmless.MatchString(text) {
		return fmt.Sprintf("is %q", text)
	}
	return "has a value that is not shown, since it could hold a password"
}

var scheme = regexp.MustCompile(`^([a-z][a-z0-9+.-]{0,20})://`)

// quoteScheme describes a URL. A password can be anywhere in the rest of it,
// above all when it is mistyped.
func quoteScheme(text string) string {
	if match := scheme.FindStringSubmatch(text); match != nil {
		return fmt.Sprintf("has a value with the scheme %q (the rest is not shown, since it could hold a password)", match[1])
	}
	return "has a value without :// (it is not shown, since it could hold a password)"
}

// Duration reads a length of time such as 250ms or 3s, from least to most.
func (s *Set) Duration(name string, fallback, least, most time.Duration, usage string) time.Duration {
	return read(s, name, fallback.String(), usage, quoteHarmless, func(text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			return 0, fmt.Errorf("a duration with its unit, such as 250ms or 3s, from %s to %s", least, most)
		}
		return d, nil
	})
}

// Int reads an integer from least to most.
func (s *Set) Int(name string, fallback, least, most int, usage string) int {
	return read(s, name, strconv.Itoa(fallback), usage, quoteHarmless, func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("an integer from %d to %d", least, most)
		}
		return n, nil
	})
}

// Bool reads true or false.
func (s *Set) Bool(name string, fallback bool, usage string) bool {
	return read(s, name, strconv.FormatBool(fallback), usage, quoteHarmless, func(text string) (bool, error) {
		if text != "true" && text != "false" {
			return false, errors.New("true or false")
		}
		return text == "true", nil
	})
}

// OneOf reads one of a few words; the first is the default.
func (s *Set) OneOf(name string, allowed []string, usage string) string {
	return read(s, name, allowed[0], usage, quoteHarmless, func(text string) (string, error) {
		for _, word := range allowed {
			if text == word {
				return word, nil
			}
		}
		return "", fmt.Errorf("one of %s", strings.Join(allowed, ", "))
	})
}

// Text reads any text, "" by default.
func (s *Set) Text(name, usage string) string {
	return read(s, name, "", usage, quoteHarmless, func(text string) (string, error) { return text, nil })
}

// List returns the words of a variable in lower case. They are separated by commas, blanks or
// both.
func (s *Set) List(name, usage string) []string {
	return strings.FieldsFunc(strings.ToLower(s.Text(name, usage)), func(r rune) bool { return r == ',' || r == ' ' })
}

// Address reads a TCP address to listen on.
func (s *Set) Address(name, fallback, usage string) string {
	return read(s, name, fallback, usage, quoteHarmless, func(text string) (string, error) {
		_, port, err := net.SplitHostPort(text)
		if _, numeric := strconv.ParseUint(port, 10, 16); err != nil || numeric != nil {
			return "", errors.New("host:port or :port, with a port from 0 to 65535")
		}
		return text, nil
	})
}

// URL reads a URL with one of the schemes.
func (s *Set) URL(name, fallback string, schemes []string, usage string) *url.URL {
	return read(s, name, fallback, usage, quoteScheme, func(text string) (*url.URL, error) {
		u, err := url.Parse(text)
		if err == nil {
			for _, scheme := range schemes {
				if u.Scheme == scheme && (u.Host != "" || u.Opaque != "" || u.Path != "") {
					return u, nil
				}
			}
		}
		return nil, fmt.Errorf("a URL with the scheme %s", strings.Join(schemes, " or "))
	})
}

// Logger reads LOG_LEVEL and LOG_FORMAT and returns the logger they describe, which writes to w.
func (s *Set) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	name := s.OneOf("LOG_LEVEL", []string{"info", "debug", "warn", "error"},
		"least severe message that is logged: debug, info, warn or error")
	_ = level.UnmarshalText([]byte(name)) // one of the four, or Err says so
	options := &slog.HandlerOptions{Level: level}
	if s.OneOf("LOG_FORMAT", []string{"json", "text"}, "json for machines, text for people") == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
