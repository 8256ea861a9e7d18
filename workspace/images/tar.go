package images

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// writeTar writes a folder as a tar file, with its owners and times. If reproducible, everything is owned by root and
// has the same time, so that equal content gives equal files.
func writeTar(to io.Writer, folder string, reproducible bool) error {
	archive := tar.NewWriter(to)
	links := map[[2]uint64]string{} // the first name of each device and inode number
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Mode()&os.ModeSocket != 0 {
			return err
		}
		target := ""
		if info.Mode()&os.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		header.Name, header.Uname, header.Gname = relative, "", ""
		if entry.IsDir() {
			header.Name += "/"
		}
		if reproducible {
			header.Uid, header.Gid, header.ModTime = 0, 0, time.Unix(0, 0)
		}
		if stat := info.Sys().(*syscall.Stat_t); info.Mode().IsRegular() && stat.Nlink > 1 {
			file := [2]uint64{uint64(stat.Dev), stat.Ino}
			if first, found := links[file]; found {
				header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			} else {
				links[file] = header.Name
			}
		}
		if err := archive.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
			return err
		}
		return copyInto(archive, path)
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func copyInto(to io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(to, file)
	return err
}
