package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// definition is a ctlptl file for a cluster and its registry.
type definition struct{ registry, cluster *yaml.Node }

// Definition returns the ctlptl file for this cluster, or for its registry only unless whole is set. It is the file in
// the clone with this cluster's name and ports. With the default name and ports it is equivalent to that file, so that
// applying the file by hand creates the same cluster.
func (c *Cluster) Definition(ctx context.Context, whole bool) ([]byte, error) {
	d, err := c.define(ctx)
	if err != nil {
		return nil, err
	}
	if !whole {
		return encode(d.registry)
	}
	return encode(d.registry, d.cluster)
}

func (c *Cluster) define(ctx context.Context) (*definition, error) {
	path := filepath.Join(c.paths.Root, c.product.file())
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	err = errors.Join(
		set(d.registry, c.Registry, "name"),
		set(d.registry, strconv.Itoa(c.RegistryPort), "port"),
		set(d.cluster, c.Context, "name"),
		set(d.cluster, c.Registry, "registry"),
		c.product.choose(ctx, d),
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func parse(data []byte) (*definition, error) {
	d := &definition{}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		kind, err := find(&document, "kind")
		if err != nil {
			return nil, err
		}
		switch kind.Value {
		case "Registry":
			d.registry = &document
		case "Cluster":
			d.cluster = &document
		}
	}
	if d.registry == nil || d.cluster == nil {
		return nil, errors.New("missing Registry or Cluster")
	}
	return d, nil
}

// encode encodes documents as YAML.
func encode(documents ...*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	for _, document := range documents {
		if err := encoder.Encode(document); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), encoder.Close()
}

// find returns the node at a path of keys and indexes.
func find(node *yaml.Node, path ...any) (*yaml.Node, error) {
	if node.Kind == yaml.DocumentNode {
		node = node.Content[0]
	}
	for i, element := range path {
		var next *yaml.Node
		switch element := element.(type) {
		case string:
			if _, value := field(node, element); value >= 0 {
				next = node.Content[value]
			}
		case int:
			if node.Kind == yaml.SequenceNode && element < len(node.Content) {
				next = node.Content[element]
			}
		}
		if next == nil {
			return nil, fmt.Errorf("%v not found", path[:i+1])
		}
		node = next
	}
	return node, nil
}

// field returns the indexes of a key and its value in a mapping, or -1 if it has no such key.
func field(mapping *yaml.Node, key string) (int, int) {
	if mapping.Kind == yaml.MappingNode {
		for i := 0; i < len(mapping.Content); i += 2 {
			if mapping.Content[i].Value == key {
				return i, i + 1
			}
		}
	}
	return -1, -1
}

func set(node *yaml.Node, value string, path ...any) error {
	found, err := find(node, path...)
	if err != nil {
		return err
	}
	found.Value = value
	return nil
}

// removeMarked removes entries that have a comment beginning with the given word.
func removeMarked(node *yaml.Node, comment string) {
	marked := func(n *yaml.Node) bool { return strings.HasPrefix(n.LineComment, "# "+comment) }
	step := 1
	if node.Kind == yaml.MappingNode {
		step = 2
	}
	var kept []*yaml.Node
	for i := 0; i < len(node.Content); i += step {
		entry := node.Content[i : i+step]
		if marked(entry[0]) || marked(entry[step-1]) {
			continue
		}
		removeMarked(entry[step-1], comment)
		kept = append(kept, entry...)
	}
	node.Content = kept
}
