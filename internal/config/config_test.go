package config

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func readAll(s *Set) {
	s.Address("ADDRESS", ":80", "")
	s.Int("COUNT", 3, 1, 9, "")
	s.Duration("WAIT", time.Second, time.Millisecond, time.Minute, "")
	s.Bool("FLAG", false, "")
	s.OneOf("WORD", []string{"one", "two"}, "")
	s.Text("TEXT", "")
	s.URL("URL", "http://x", []string{"http"}, "")
	s.Logger(os.Stderr)
}

func TestInvalidValuesAreNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, value := range map[string]string{
		"ADDRESS": "localhost", "COUNT": "10", "WAIT": "5", "FLAG": "yes", "WORD": "three", "URL": "ftp://x",
		"LOG_LEVEL": "loud", "LOG_FORMAT": "xml",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			s := New("service")
			readAll(s)
			require.Error(t, s.Err())
			if name == "URL" {
				assert.Regexp(t, `^URL has a value with the scheme "ftp" .*: must be `, s.Err().Error())
			} else {
				assert.Contains(t, s.Err().Error(), name+` is "`+value+`": must be `)
			}
		})
	}
	s := New("service")
	readAll(s)
	assert.NoError(t, s.Err(), "the defaults are allowed")
}

func TestPasswordsAreNotShown(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, value := range []string{
		"mysql://me:hush@host/db", "ftp://me:hush%zz@host/db",
		"postgresql://host/db?password=hush", "mysql://host/db?sslpassword=hush",
		"host=db user=me password=hush", "host=db password='hush'", "me:hush@host/db", "://hush", "MySQL://hush", "ftp:/hush",
	} {
		for _, name := range []string{"URL", "COUNT", "WAIT", "FLAG", "WORD", "ADDRESS", "LOG_LEVEL"} {
			t.Run(name+"="+value, func(t *testing.T) {
				t.Setenv(name, value)
				s := New("service")
				readAll(s)
				require.Error(t, s.Err())
				assert.NotContains(t, s.Err().Error(), "hush")
			})
		}
	}
}

func TestDotEnv(t *testing.T) {
	unset := func(t *testing.T) { // godotenv sets it for the whole process
		t.Setenv("COUNT", "")
		require.NoError(t, os.Unsetenv("COUNT"))
	}
	count := func() int { return New("service").Int("COUNT", 3, 1, 9, "") }
	write := func(t *testing.T, file, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}

	t.Run("of the current folder", func(t *testing.T) {
		unset(t)
		t.Chdir(t.TempDir())
		write(t, ".env", "COUNT=4\n")
		assert.Equal(t, 4, count())
	})
	t.Run("of the service's folder below it", func(t *testing.T) {
		unset(t)
		t.Chdir(t.TempDir())
		write(t, "service/.env", "COUNT=5\n")
		assert.Equal(t, 5, count())
	})
	t.Run("does not override the environment", func(t *testing.T) {
		t.Chdir(t.TempDir())
		t.Setenv("COUNT", "6")
		write(t, ".env", "COUNT=4\n")
		assert.Equal(t, 6, count())
	})
}

func TestHelpListsEveryVariable(t *testing.T) {
	t.Chdir(t.TempDir())
	s := New("service")
	readAll(s)
	var help bytes.Buffer
	s.Help(&help)
	for _, name := range []string{"ADDRESS", "COUNT", "WAIT", "FLAG", "WORD", "TEXT", "URL", "LOG_LEVEL", "LOG_FORMAT"} {
		assert.Contains(t, help.String(), "  "+name+" ")
		assert.Contains(t, s.Markdown(), "| `"+name+"` | ")
	}
}
