package paths

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Hash returns a combined hash of files and folders, given by their paths relative to the clone.
func (p Paths) Hash(names ...string) (string, error) {
	all := sha256.New()
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(p.Root, name), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			content := sha256.New()
			if _, err := io.Copy(content, file); err != nil {
				return err
			}
			relative, err := filepath.Rel(p.Root, path)
			fmt.Fprintf(all, "%x  %s\n", content.Sum(nil), relative)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(all.Sum(nil))[:16], nil
}
