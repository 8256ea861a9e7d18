package images

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"example.com/invoices/workspace/paths"
)

// image is a line of the list.
type image struct {
	tag      string   // the local one, which everything else refers to
	upstream string   // where it is pulled from
	products []string // the products whose clusters need it, or nil for all
}

// folder returns the name of the folder in offline/ that has the image's recipe, or of the one in tools/ that has its
// programs.
func (i image) folder() string {
	name, _, _ := strings.Cut(path.Base(i.tag), ":")
	return name
}

// readList reads the list at IMAGE_LIST, by default images.txt.
func readList(p paths.Paths) ([]image, error) {
	name := cmp.Or(os.Getenv("IMAGE_LIST"), p.Root+"/workspace/images/images.txt")
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []image
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 || len(fields) > 3 {
			return nil, fmt.Errorf("%s: %q is invalid: must be TAG UPSTREAM [PRODUCT,...]", name, lines.Text())
		}
		read := image{tag: fields[0], upstream: fields[1]}
		if len(fields) == 3 {
			read.products = strings.Split(fields[2], ",")
		}
		all = append(all, read)
	}
	return all, lines.Err()
}

// of returns the images that a product's clusters need.
func of(list []image, product string) []image {
	return slices.DeleteFunc(slices.Clone(list), func(i image) bool {
		return i.products != nil && !slices.Contains(i.products, product)
	})
}
