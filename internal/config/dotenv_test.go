package config

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/joho/godotenv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// secret must not appear in any error.
const secret = "hushhush"

func TestDotenvValues(t *testing.T) {
	for text, expected := range map[string]map[string]string{
		"":                                   {},
		"\n\n# A=1\n  # \xc2\xa0 any text\n": {},
		"A=1\nB=2":                           {"A": "1", "B": "2"},
		"A=1\r\nB=\"2\r\n3\"\r\n":            {"A": "1", "B": "2\n3"},
		"\ufeffA=1":                          {"A": "1"},
		" export A=1\nexport\t B = 2 \n":     {"A": "1", "B": "2"},
		"A: 1\nB :\t2\nC:\nD.e_1=x":          {"A": "1", "B": "2", "C": "", "D.e_1": "x"},
		"A=\nB=''\nC=\"\"":                   {"A": "", "B": "", "C": ""},
		"A=a#b\nB='a # b' # c\nC=\"#\"#d":    {"A": "a#b", "B": "a # b", "C": "#"},
		"A=b c  d\nB==\nC=a=b:c":             {"A": "b c  d", "B": "=", "C": "a=b:c"},
		`A=it's "so"`:                        {"A": `it's "so"`},
		`A='$B ${C} \n "x" \$'`:              {"A": `$B ${C} \n "x" \$`},
		`A="\n\r\"x\\y\$B"`:                  {"A": "\n\r\"x\\y$B"},
		`A=\$B \${C} \$(d) \n \\`:            {"A": `$B ${C} $(d) \n \\`},
		"A=5$ $ $- $$\nB=\"5$\"":             {"A": "5$ $ $- $$", "B": "5$"},
		"A=x$y$\nB=1":                        nil, // $y looks like a variable
		"_A1=1\nB=$_A1-${_A1}x\nC='$B'":      {"_A1": "1", "B": "1-1x", "C": "$B"},
		"A=$\\$B":                            {"A": "$$B"},
		"A='B=1\n B=\n=\nb=1\n'\nB=2":        {"A": "B=1\n B=\n=\nb=1\n", "B": "2"},
		"A=é請\nB='\u200b'":                   {"A": "é請", "B": "\u200b"},
		"A=postgres://me:p%24@h/d?a=b&c=d":   {"A": "postgres://me:p%24@h/d?a=b&c=d"},
		"KEY=\"-----BEGIN-----\nMIIE/+x=\nAA==\nAB=\n-----END-----\"\n": {
			"KEY": "-----BEGIN-----\nMIIE/+x=\nAA==\nAB=\n-----END-----",
		},
	} {
		t.Run(text, func(t *testing.T) {
			d := dotenvOf(t, text)
			err := d.check()
			if expected == nil {
				assert.Error(t, err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, expected, d.values)
		})
	}
}

// dotenvOf writes the text to a file and reads that.
func dotenvOf(t *testing.T, text string) *dotenv {
	file := filepath.Join(t.TempDir(), ".env")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	text, err := readDotenv(file)
	require.NoError(t, err)
	return newDotenv(".env", text)
}

// Every mistake is an error with its line and what is expected, without any content of the file.
func TestDotenvSlips(t *testing.T) {
	const (
		noVariable   = "is not a variable: expected NAME=value"
		noUTF8       = "is not UTF-8 text: save the file as UTF-8"
		comment      = "has # after a blank, where a comment would begin: write NAME='value'"
		unset        = "has a variable after $ that no line above sets: write NAME='value' in single quotes"
		noReference  = "has $ before something that is not a variable in capital letters: write NAME='value' in single quotes"
		vague        = "has a variable after $ whose name does not end clearly: write it as ${NAME}"
		neverClosed  = "has a quote that is never closed: expected"
		afterQuote   = "has text after the closing quote of the value that begins in line 1: expected"
		stillOpen    = "has a quote that is still open in line 2, where another variable seems to begin: close it"
		backslash    = "has a backslash in double quotes that does not belong to"
		beforeQuote  = "has a backslash before a single quote: write the value without quotes or in double quotes"
		carriage     = "has a carriage return without a line feed: save the file with LF or CRLF line ends"
		nul          = "has a NUL byte, as in UTF-16: save the file as UTF-8"
		strangeBlank = "has the blank U+00A0 in a value"
	)
	for text, expected := range map[string]string{
		"A B\nC=hushhush\n":            "1: " + noVariable,
		"LOG_LEVEL debug":              "1: " + noVariable,
		"A=1\n\nhushhush":              "3: " + noVariable,
		"A=1\nhushhush=\n=hushhush":    "3: " + noVariable,
		"export A\n":                   "1: " + noVariable,
		"export =hushhush":             "1: " + noVariable,
		"export=hushhush":              "1: " + noVariable,
		"1A=hushhush":                  "1: " + noVariable,
		"A-B=hushhush":                 "1: " + noVariable,
		"É=hushhush":                   "1: " + noVariable,
		"- A=hushhush":                 "1: " + noVariable,
		"set A=hushhush":               "1: " + noVariable,
		"http://me:hushhush@h":         "1: " + noVariable,
		"{\"A\":\"hushhush\"}":         "1: " + noVariable,
		"\u00a0A=hushhush":             "1: " + noVariable,
		"\ufeff\ufeffA=hushhush":       "1: " + noVariable,
		"A=1\n\ufeffB=hushhush":        "2: " + noVariable,
		"A='hushhush\n":                "1: " + neverClosed + " ' ",
		"B=1\nA=\"hushhush":            "2: " + neverClosed + ` " `,
		`A="hushhush\"`:                "1: " + neverClosed,
		"A=\"hushhush\nB=\"x\"":        "1: " + stillOpen,
		"A='hushhush\nB='":             "1: " + stillOpen,
		"A='hushhush\n export B='x'":   "1: " + stillOpen,
		"A='hushhush\nB=c'\n":          "1: " + stillOpen,
		"A='x\nhushhush'hushhush":      "2: " + afterQuote,
		"A='hush''hush'":               "1: " + afterQuote,
		`A="hush"B=2`:                  "1: " + afterQuote,
		`A="""hushhush"""`:             "1: " + afterQuote,
		"A='hush'\u00a0":               "1: " + afterQuote,
		`A='hush\'s'`:                  "1: " + beforeQuote,
		`A='C:\hushhush\'`:             "1: " + beforeQuote,
		`A="C:\hushhush"`:              "1: " + backslash,
		`A="hushhush\\"`:               "1: " + backslash,
		`A="hushhush\"" `:              "1: " + backslash,
		`A="hush\\$A"`:                 "1: " + backslash,
		"A=\"hush\\\nhush\"":           "1: " + backslash,
		"A=hush$T":                     "1: " + unset,
		"A=1\nB=\"x\nhush${HUSH}\"":    "2: " + unset,
		"A=$A":                         "1: " + unset,
		"B=$A\nA=1":                    "1: " + unset,
		"A=${HOME}/hushhush":           "1: " + unset,
		"A=hush$1":                     "1: " + unset,
		"A=hush$t":                     "1: " + noReference,
		"A=hush$(hush)":                "1: " + noReference,
		"A=1\nB=${A:-hush}":            "2: " + noReference,
		"A=1\nB=${A":                   "2: " + noReference,
		"A=hush${}":                    "1: " + noReference,
		"A=1\nB=$Ahush":                "2: " + vague,
		"A=1\nB=$A}":                   "2: " + vague,
		"A=hush # hush":                "1: " + comment,
		"A=hush # hush # hush":         "1: " + comment,
		"A=#hushhush":                  "1: " + comment,
		"A= # hush":                    "1: " + comment,
		"A=hush\t#":                    "1: " + comment,
		"A=hushhush\u00a0":             "1: " + strangeBlank,
		"A=1\nB=hush\nA=hush":          "3: sets the same variable as line 1: remove one of them",
		"A=1\rB=hushhush\r":            "1: " + carriage,
		"A=1\nB='hush\rhush'":          "2: " + carriage,
		"A=1\nB=hush\x00hush":          "2: " + nul,
		"A\x00=\x00h\x00":              "1: " + nul,
		"\xff\xfeA\x00=\x00h\x00":      "1: " + noUTF8,
		"\xfe\xff\x00A\x00=\x00h":      "1: " + noUTF8,
		"A=1\nB=hush\xe9":              "2: " + noUTF8,
		"# caf\xe9":                    "1: " + noUTF8,
		"A=hush\x1b[0m":                "1: has the control character U+001B: remove it",
		"A=hush\u0085hush":             "1: has the control character U+0085: remove it",
		"B='\n\n' # x\nA='hushhush":    "4: " + neverClosed,
		"# 1\r\n\r\nhushhush\r\n":      "3: " + noVariable,
		strings.Repeat("#\n", 9) + "A": "10: " + noVariable,
	} {
		t.Run(text, func(t *testing.T) {
			err := dotenvOf(t, text).check()
			require.Error(t, err)
			assert.True(t, strings.HasPrefix(err.Error(), ".env:"+expected), "%v", err)
			assert.NotContains(t, err.Error(), "hush")
			assert.NotContains(t, err.Error(), "HUSH")
		})
	}
}

func TestDotenvFiles(t *testing.T) {
	for name, make := range map[string]struct {
		file     func(t *testing.T)
		expected string
	}{
		"directory": {func(t *testing.T) { require.NoError(t, os.Mkdir(".env", 0o700)) },
			".env: is a directory, a pipe or a device: must be a regular file"},
		"pipe": {func(t *testing.T) { require.NoError(t, syscall.Mkfifo(".env", 0o600)) },
			".env: is a directory, a pipe or a device: must be a regular file"},
		"device": {func(t *testing.T) { require.NoError(t, os.Symlink("/dev/zero", ".env")) },
			".env: is a directory, a pipe or a device: must be a regular file"},
		"link to nothing": {func(t *testing.T) { require.NoError(t, os.Symlink("nothing", ".env")) },
			".env: is a link to a file that does not exist"},
		"link to itself": {func(t *testing.T) { require.NoError(t, os.Symlink(".env", ".env")) },
			"stat .env: too many levels of symbolic links: make the file readable for this user, or remove it"},
		"too large": {func(t *testing.T) {
			require.NoError(t, os.WriteFile(".env", []byte(strings.Repeat("#", maxDotenv+1)), 0o600))
		}, ".env: has 1048577 bytes: must have at most 1048576"},
		"a slip": {func(t *testing.T) { require.NoError(t, os.WriteFile(".env", []byte("\nA "+secret), 0o600)) },
			".env:2: is not a variable: expected NAME=value"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			make.file(t)
			err := New("service").Err()
			assert.ErrorContains(t, err, make.expected)
			assert.NotContains(t, err.Error(), secret)
		})
	}

	t.Run("permission denied", func(t *testing.T) {
		t.Chdir(t.TempDir())
		require.NoError(t, os.WriteFile(".env", nil, 0))
		err := New("service").Err()
		if os.Geteuid() == 0 { // can read everything
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, "open .env: permission denied: make the file readable for this user, or remove it")
		}
	})
	t.Run("link to a file", func(t *testing.T) {
		t.Chdir(t.TempDir())
		require.NoError(t, os.WriteFile("shared", []byte("\ufeffDOTENV_LINKED=4\n"), 0o600))
		require.NoError(t, os.Symlink("shared", ".env"))
		t.Cleanup(func() { os.Unsetenv("DOTENV_LINKED") })
		assert.Equal(t, 4, New("service").Int("DOTENV_LINKED", 3, 1, 9, ""))
	})
}

// FuzzDotenv checks that godotenv reads whatever the check accepts, and to the
// same values.
func FuzzDotenv(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		d := newDotenv(".env", text)
		if d.check() != nil {
			return
		}
		values, err := godotenv.Unmarshal(text)
		require.NoError(t, err)
		require.True(t, maps.Equal(d.values, values), "checked %q, read %q", d.values, values)
		for name := range values {
			require.NotContains(t, name, "=")
		}
	})
}
