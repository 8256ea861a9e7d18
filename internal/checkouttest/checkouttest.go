// Package checkouttest copies this checkout as it is now: what git tracks, or would add.
package checkouttest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Files lists the files of the checkout at root, or those at the given paths in it.
func Files(root string, paths ...string) ([]string, error) {
	command := exec.Command("git",
		append([]string{"-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, paths...)...)
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", command.Args, err)
	}
	var files []string
	for file := range strings.SplitSeq(strings.TrimSuffix(string(output), "\x00"), "\x00") {
		_, err := os.Lstat(filepath.Join(root, file))
		if errors.Is(err, fs.ErrNotExist) { // deleted, and not committed yet
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// Copy copies these files into the folder to.
func Copy(root, to string, paths ...string) error {
	files, err := Files(root, paths...)
	if err != nil {
		return err
	}
	for _, file := range files {
		source, target := filepath.Join(root, file), filepath.Join(to, file)
		info, err := os.Lstat(source)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file, which git on Windows would change", file)
		}
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, content, info.Mode()); err != nil {
			return err
		}
	}
	return nil
}

// Commit copies the files of the checkout at root into a new repository in the folder to, and commits them.
func Commit(root, to string) error {
	if err := Copy(root, to); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"add", "--all", "--force"},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message=now"},
	} {
		if err := git(append([]string{"-C", to}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// Clone commits a copy of the files in the folder origin, and clones that as git on Windows does: with CRLF.
func Clone(root, origin, clone string) error {
	if err := Commit(root, origin); err != nil {
		return err
	}
	return git("clone", "--quiet", "--config", "core.autocrlf=true", origin, clone)
}

func git(args ...string) error {
	command := exec.Command("git", args...)
	command.Env = Environment()
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", command.Args, err, output)
	}
	return nil
}

// Environment returns the environment without the variables of a make or git that started this process.
func Environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "MAKE") || strings.HasPrefix(variable, "GIT_")
	})
}
