package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// printFields prints the fields of a JSON object, one a line, in their order.
func printFields(out io.Writer, object []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var value any
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%-18s%v\n", name, value); err != nil {
			return err
		}
	}
	return nil
}
