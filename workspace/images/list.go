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
	tag      string // the local one, which everything else names
	upstream string // where it is pulled from
	product  string // whose clusters need it, or "" for all
}

// folder is where the image's recipe is, in offline/.
func (i image) folder() string {
	name, _, _ := strings.Cut(path.Base(i.tag), ":")
	return name
}

// readList reads IMAGE_LIST, or else the list that is beside this file.
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
			return nil, fmt.Errorf("%s: %q is not a tag, where it is pulled from, and perhaps a product", name, lines.Text())
		}
		fields = append(fields, "")
		all = append(all, image{tag: fields[0], upstream: fields[1], product: fields[2]})
	}
	return all, lines.Err()
}

// of is the images of every cluster, and of those made with a product.
func of(list []image, product string) []image {
	return slices.DeleteFunc(slices.Clone(list), func(i image) bool { return i.product != "" && i.product != product })
}
